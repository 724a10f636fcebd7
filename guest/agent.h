/* The guest agent: serves the guest protocol (docs/guest-protocol.md) on one stream. */
#ifndef AK_AGENT_H
#define AK_AGENT_H

#include "sys.h"

/* Descriptors of the cgroups that each started process joins; opened by `enter` before the host's file system is gone. */
struct agent_cgroups {
    int v1_tasks[8];   /* tasks of v1 hierarchies: the process, which has one thread, writes "0" */
    unsigned v1_count;
    int v2_directory;  /* for CLONE_INTO_CGROUP; -1: none */
    int v2_procs;      /* its cgroup.procs, where clone3 with a cgroup is refused; -1: none */
};

/* The `agent` verb, with the arguments after it; returns the exit status (2: bad arguments). */
int agent_main(int argc, char **argv);

/* Serves on an inherited listening socket; returns the exit status when the sandbox ends. */
int agent_serve(int listen_fd, const struct agent_cgroups *cgroups);

#endif
