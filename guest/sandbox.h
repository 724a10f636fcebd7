/* The sandbox under construction: what the steps of a launch plan share, and the steps themselves. */
#ifndef AK_SANDBOX_H
#define AK_SANDBOX_H

#include "agent.h"
#include "plan.h"
#include "sys.h"

/* Outer and inner process each have their own copy (their memory is not shared); the descriptors in it are common to both. */
struct sandbox {
    int status_fd;
    int outer;               /* pidfd of the outer process */
    int handover[2];         /* the pipe to the inner process */
    uint32_t clone_index;    /* of the step CLONE */
    uint64_t namespaces;     /* its flags */
    int inner;               /* outside: pid of the inner process */
    int userns;              /* outside: user namespace of the inner process, once asked for */
    int mapped_userns;       /* outside: throw-away user namespace of the last IDMAP_TREE */
    const char *mapped_text; /* outside: and its map */
    int root;                /* inside: the new root */
    int ruleset;             /* inside: Landlock */
    int masks[2];            /* inside: the first mask of a file, and of a directory */
    int first_cgroup;        /* outside: where the inner process is born; -1: in the outer one's */
    void *plan;
    size_t plan_bytes;
    int slots[PLAN_SLOTS];
    struct agent_cgroups cgroups;
};

/* A step does one act and returns 0 (or more) or -errno. */
typedef sysret step_function(struct sandbox *sandbox, const struct plan_step *step);

/* step_outside.c */
step_function step_idmap, step_cgroup;
/* step_tree.c */
step_function step_tree, step_idmap_tree;
/* step_root.c */
step_function step_private, step_root_tmpfs, step_root_slot, step_root_overlay, step_root_bind, step_remount_root, step_remount, step_pivot;
/* step_mount.c */
step_function step_tmpfs, step_overlay, step_proc, step_devpts, step_mqueue;
/* step_bind.c */
step_function step_bind, step_attach, step_bind_within, step_mask, step_read_only;
/* step_file.c */
step_function step_mkdir, step_file, step_symlink;
/* step_system.c */
step_function step_hostname, step_loopback, step_rlimit, step_sysctl;
/* step_transparent.c */
step_function step_transparent;
/* step_identity.c */
step_function step_setid, step_capabilities, step_no_new_privs;
/* step_landlock.c */
step_function step_landlock, step_landlock_path, step_landlock_apply;
/* step_agent.c and step_program.c: return only on failure */
step_function step_agent, step_program;

#endif
