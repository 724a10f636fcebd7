/* The last step: leave everything of the host behind and become the agent. */
#include "sandbox.h"

#include "kernel.h"
#include "status.h"

#include <asm/socket.h>
#include <linux/fcntl.h>
#include <linux/prctl.h>
#include <linux/sched.h>

#define KEPT_MAX (3 + 8 + 2 + 2) /* 0-2, v1 cgroups, v2 cgroup, listening socket and status */
#define UMASK 022

struct kept {
    unsigned fds[KEPT_MAX];
    unsigned count;
};

/* Keeps the list sorted. */
static void keep(struct kept *kept, int fd)
{
    unsigned at;
    if (fd < 0)
        return;
    for (at = kept->count++; at && kept->fds[at - 1] > (unsigned)fd; at--)
        kept->fds[at] = kept->fds[at - 1];
    kept->fds[at] = (unsigned)fd;
}

/* Closes every descriptor that is not kept: what stays open leads out of the sandbox (CVE-2024-21626). */
static sysret close_others(const struct kept *kept)
{
    unsigned first = 0;
    sysret result = 0;
    for (unsigned i = 0; i < kept->count && result >= 0; i++) {
        if (kept->fds[i] > first)
            result = SYS(close_range, first, kept->fds[i] - 1, 0);
        first = kept->fds[i] + 1;
    }
    return result < 0 ? result : SYS(close_range, first, ~0u, 0);
}

static sysret leave_descriptors(const struct sandbox *sandbox, int listen_fd)
{
    const struct agent_cgroups *cgroups = &sandbox->cgroups;
    struct kept kept = {.fds = {0, 1, 2}, .count = 3};
    sysret result = SYS(unshare, CLONE_FILES);
    if (result < 0)
        return result;
    for (unsigned i = 0; i < cgroups->v1_count; i++)
        keep(&kept, cgroups->v1_tasks[i]);
    keep(&kept, cgroups->v2_directory);
    keep(&kept, cgroups->v2_procs);
    keep(&kept, listen_fd);
    keep(&kept, sandbox->status_fd);
    return close_others(&kept);
}

static sysret check_listening(int fd)
{
    int listening = 0, length = sizeof listening;
    sysret result = SYS(getsockopt, fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length);
    if (result < 0)
        return result;
    return listening ? SYS(fcntl, fd, F_SETFD, FD_CLOEXEC) : -EINVAL;
}

sysret step_agent(struct sandbox *sandbox, const struct plan_step *step)
{
    int listen_fd = (int)step->arguments[0].number;
    struct agent_cgroups cgroups = sandbox->cgroups;
    sysret result = check_listening(listen_fd);
    if (result >= 0)
        result = leave_descriptors(sandbox, listen_fd);
    if (result >= 0)
        result = SYS(prctl, PR_SET_DUMPABLE, 0, 0, 0, 0); /* a change of user may have set it to fs.suid_dumpable */
    if (result < 0)
        return result;
    (void)SYS(umask, UMASK);
    ak_unmap(sandbox->plan, sandbox->plan_bytes);
    if (status_send(sandbox->status_fd, (struct status_record){.kind = STATUS_READY}) < 0)
        ak_exit(1); /* the caller is gone: nobody knows of this sandbox */
    (void)SYS(close, sandbox->status_fd);
    ak_exit(agent_serve(listen_fd, &cgroups));
}
