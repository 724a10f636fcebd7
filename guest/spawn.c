/*
 * From a forked child to the workload: what is given up is given up in an order in which each step is still allowed to do its work.
 * The seccomp filter comes last, so that it needs to allow nothing but the exec itself.
 */
#include "spawn.h"

#include "builtin.h"
#include "clock.h"
#include "descriptor.h"
#include "path.h"

#include <asm/ioctls.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/prctl.h>
#include <linux/resource.h>
#include <linux/seccomp.h>

#define REPORT 3 /* where the report descriptor ends up */

struct child {
    const struct spawn *spawn;
    int report;
};

static _Noreturn void fail(const struct child *child, enum stage stage, sysret error)
{
    struct spawn_failure failure = {.error = (int32_t)-error, .stage = stage};
    (void)ak_write_all(child->report, &failure, sizeof failure);
    ak_exit(127);
}

static void check(const struct child *child, enum stage stage, sysret result)
{
    if (result < 0)
        fail(child, stage, result);
}

static void take_terminal(const struct child *child)
{
    const struct spawn *spawn = child->spawn;
    (void)SYS(setsid);
    check(child, STAGE_FORK, SYS(dup3, spawn->input, 0, 0));
    check(child, STAGE_FORK, SYS(dup3, spawn->output, 1, 0));
    check(child, STAGE_FORK, SYS(dup3, spawn->error, 2, 0));
    if (spawn->request->terminal)
        check(child, STAGE_TERMINAL, SYS(ioctl, 0, TIOCSCTTY, 0));
}

/* By `tasks`, "0" moves this thread alone, without the grace period that cgroup.procs would wait for; a forked process has no other one. */
static void join_cgroups(const struct child *child, bool in_cgroup)
{
    const struct agent_cgroups *cgroups = child->spawn->cgroups;
    for (unsigned i = 0; i < cgroups->v1_count; i++)
        check(child, STAGE_CGROUP, SYS(write, cgroups->v1_tasks[i], "0", 1));
    if (in_cgroup || (cgroups->v2_directory < 0 && cgroups->v2_procs < 0))
        return;
    if (cgroups->v2_procs < 0)
        fail(child, STAGE_CGROUP, -EOPNOTSUPP);
    check(child, STAGE_CGROUP, SYS(write, cgroups->v2_procs, "0", 1));
}

static void set_limits(const struct child *child)
{
    const struct configuration *configuration = child->spawn->configuration;
    if (child->spawn->files.hard)
        check(child, STAGE_LIMITS, SYS(prlimit64, 0, RLIMIT_NOFILE, &child->spawn->files, NULL));
    for (uint32_t i = 0; i < configuration->limit_count; i++) {
        struct resource_limit limit = {configuration->limits[i].soft, configuration->limits[i].hard};
        check(child, STAGE_LIMITS, SYS(prlimit64, 0, configuration->limits[i].resource, &limit, NULL));
    }
}

static void close_descriptors(struct child *child)
{
    static const int keep[] = {0, 1, 2, REPORT};
    if (child->report != REPORT) {
        check(child, STAGE_FORK, SYS(dup3, child->report, REPORT, O_CLOEXEC));
        child->report = REPORT;
    }
    descriptor_close_others(keep, 4);
}

/* The agent reset all other dispositions when it started. */
static void reset_signals(void)
{
    _Alignas(8) char unset[64] = {0};
    uint64_t none = 0;
    (void)SYS(rt_sigaction, SIGPIPE, unset, NULL, 8);
    (void)SYS(rt_sigprocmask, SIG_SETMASK, &none, NULL, 8);
    (void)SYS(umask, 022);
}

static void become_user(const struct child *child)
{
    const struct start_request *request = child->spawn->request;
    sysret uid = request->uid, error = SYS(setgroups, request->group_count, request->groups);
    /* A namespace with one id denies setgroups; then there are no groups to be dropped, and none to be asked for. */
    if (error < 0 && !(error == -EPERM && request->group_count == 0))
        fail(child, STAGE_USER, error);
    if (request->gid != UINT32_MAX)
        check(child, STAGE_USER, SYS(setresgid, request->gid, request->gid, request->gid));
    if (request->uid == UINT32_MAX)
        uid = SYS(geteuid); /* the agent's other ids are not for others */
    check(child, STAGE_USER, SYS(setresuid, uid, uid, uid));
}

static void drop_capabilities(const struct child *child)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}};
    (void)SYS(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    check(child, STAGE_USER, SYS(capset, &header, none));
}

static void install_filter(const struct child *child)
{
    const struct configuration *configuration = child->spawn->configuration;
    struct sock_fprog program = {
        .len = (unsigned short)configuration->filter_length,
        .filter = (struct sock_filter *)(uintptr_t)configuration->filter,
    };
    check(child, STAGE_SECCOMP, SYS(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    if (configuration->filter_length)
        check(child, STAGE_SECCOMP, SYS(seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
}

static _Noreturn void execute(const struct child *child)
{
    const struct start_request *request = child->spawn->request;
    struct path_search search;
    char path[MAX_PATH];
    sysret error = -ENOENT;
    for (const char *at = request->argv[0]; *at; at++)
        if (*at == '/')
            fail(child, STAGE_EXEC, SYS(execve, request->argv[0], request->argv, request->envp));
    if (!*request->argv[0])
        fail(child, STAGE_EXEC, -ENOENT);
    for (path_search_begin(&search, request->argv[0], request->envp); path_search_next(&search, path);) {
        sysret tried = SYS(execve, path, request->argv, request->envp);
        if (tried == -EACCES)
            error = tried; /* a later directory may hold one that may be executed; if not, this is what to say */
        else if (tried != -ENOENT && tried != -ENOTDIR)
            fail(child, STAGE_EXEC, tried);
    }
    fail(child, STAGE_EXEC, error);
}

_Noreturn void spawn_run(const struct spawn *spawn, int report, bool in_cgroup)
{
    struct child child = {spawn, report};
    take_terminal(&child);
    join_cgroups(&child, in_cgroup);
    set_limits(&child);
    close_descriptors(&child);
    reset_signals();
    become_user(&child);
    (void)SYS(prctl, PR_SET_DUMPABLE, 0, 0, 0, 0); /* a change of the uid may have opened this memory, which is the supervisor's too */
    check(&child, STAGE_DIRECTORY, SYS(chdir, spawn->request->directory));
    drop_capabilities(&child);
    install_filter(&child);
    if (!spawn->request->builtin)
        execute(&child);
    (void)SYS(close, REPORT);
    ak_exit(builtin_run(spawn->request->builtin, (int)spawn->request->argc, spawn->request->argv));
}
