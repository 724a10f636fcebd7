/* The launch plan (docs/launch-plan.md): a pure reader, which checks everything before anything is done. */
#ifndef AK_PLAN_H
#define AK_PLAN_H

#include "sys.h"

#define PLAN_BYTES_MAX (1u << 20)
#define PLAN_PATH_MAX 4096u /* with the NUL */
#define PLAN_SLOTS 128u
#define PLAN_ARGUMENTS_MAX 5u

enum plan_op {
    PLAN_CLONE = 1,
    PLAN_IDMAP = 2,
    PLAN_TREE = 3,
    PLAN_IDMAP_TREE = 4,
    PLAN_CGROUP = 5,
    PLAN_GO = 6,
    PLAN_PRIVATE = 10,
    PLAN_SETID = 11,
    PLAN_ROOT_TMPFS = 12,
    PLAN_ROOT_SLOT = 13,
    PLAN_ROOT_OVERLAY = 14,
    PLAN_ROOT_BIND = 15,
    PLAN_TMPFS = 20,
    PLAN_BIND = 21,
    PLAN_ATTACH = 22,
    PLAN_OVERLAY = 23,
    PLAN_PROC = 24,
    PLAN_DEVPTS = 25,
    PLAN_MQUEUE = 26,
    PLAN_BIND_WITHIN = 27,
    PLAN_MKDIR = 30,
    PLAN_FILE = 31,
    PLAN_SYMLINK = 32,
    PLAN_MASK = 33,
    PLAN_READ_ONLY = 34,
    PLAN_REMOUNT_ROOT = 35,
    PLAN_REMOUNT = 36,
    PLAN_PIVOT = 40,
    PLAN_HOSTNAME = 41,
    PLAN_LOOPBACK = 42,
    PLAN_RLIMIT = 43,
    PLAN_SYSCTL = 44,
    PLAN_TRANSPARENT = 45,
    PLAN_CAPABILITIES = 50,
    PLAN_NO_NEW_PRIVS = 51,
    PLAN_LANDLOCK = 52,
    PLAN_LANDLOCK_PATH = 53,
    PLAN_LANDLOCK_APPLY = 54,
    PLAN_AGENT = 60,
    PLAN_PROGRAM = 61,
    PLAN_OPS /* one more than the highest */
};

struct plan_value {
    uint64_t number;  /* of an integer argument */
    const char *text; /* of a string (with its NUL) or of bytes (without) */
    uint32_t length;  /* of the text, without the NUL */
};

struct plan_step {
    uint32_t index;
    uint32_t op;
    struct plan_value arguments[PLAN_ARGUMENTS_MAX];
};

/* A place in the plan's bytes; copy it to come back to it. */
struct plan_cursor {
    const uint8_t *bytes;
    size_t size;
    size_t at;
    uint32_t next;
    uint32_t count;
};

/* What plan_check found: the index of the step that is wrong, and how far the reader had come. */
struct plan_fault {
    uint32_t step;
    uint32_t offset;
};

/* Is this a whole plan, each step well-formed and in its place? */
bool plan_check(const uint8_t *bytes, size_t size, struct plan_fault *fault);

/* Reads the head; false if it is none. */
bool plan_begin(struct plan_cursor *cursor, const uint8_t *bytes, size_t size);

/* Reads the next step; false at the end and where the bytes are no step. The step's texts point into the plan's bytes. */
bool plan_next(struct plan_cursor *cursor, struct plan_step *step);

/* What a step may do depends on the steps before it: start from zero and show it each step in order. */
struct plan_order {
    uint64_t clone_flags;
    uint64_t slots_filled[PLAN_SLOTS / 64];
    uint64_t slots_used[PLAN_SLOTS / 64];
    unsigned cgroups_v1;
    bool cgroup_v2, cgroup_first;
    bool cloned;
    bool mapped;
    bool inside;
    bool is_private;
    bool rooted;
    bool pivoted;
    bool no_new_privs;
    bool ruleset;
    bool finished;
};

/* Is the step in its place? */
bool plan_order_accepts(struct plan_order *order, const struct plan_step *step);

#endif
