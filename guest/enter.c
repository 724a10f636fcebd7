/*
 * The launcher. The outer process checks the plan and does the steps in the caller's namespaces; the inner process, a sibling of it, waits for GO, builds the
 * sandbox and becomes the agent.
 *
 * Neither must outlive the other's failure, or the caller's, with the sandbox half built. They share their descriptors, so the end of one closes nothing
 * for the other: the inner process polls a pidfd of the outer. The caller is watched through the status descriptor, whose other end it holds - a parent-death signal would
 * not do: it comes when the *thread* that started the launcher ends, and is lost when the process changes its user.
 */
#include "enter.h"

#include "beneath.h"
#include "kernel.h"
#include "sandbox.h"
#include "status.h"

#include <asm/signal.h>
#include <linux/fcntl.h>
#include <linux/poll.h>
#include <linux/prctl.h>
#include <linux/sched.h>

static step_function *const functions[PLAN_OPS] = {
    [PLAN_IDMAP] = step_idmap,
    [PLAN_TREE] = step_tree,
    [PLAN_IDMAP_TREE] = step_idmap_tree,
    [PLAN_CGROUP] = step_cgroup,
    [PLAN_PRIVATE] = step_private,
    [PLAN_SETID] = step_setid,
    [PLAN_ROOT_TMPFS] = step_root_tmpfs,
    [PLAN_ROOT_SLOT] = step_root_slot,
    [PLAN_ROOT_OVERLAY] = step_root_overlay,
    [PLAN_ROOT_BIND] = step_root_bind,
    [PLAN_TMPFS] = step_tmpfs,
    [PLAN_BIND] = step_bind,
    [PLAN_ATTACH] = step_attach,
    [PLAN_OVERLAY] = step_overlay,
    [PLAN_PROC] = step_proc,
    [PLAN_DEVPTS] = step_devpts,
    [PLAN_MQUEUE] = step_mqueue,
    [PLAN_BIND_WITHIN] = step_bind_within,
    [PLAN_MKDIR] = step_mkdir,
    [PLAN_FILE] = step_file,
    [PLAN_SYMLINK] = step_symlink,
    [PLAN_MASK] = step_mask,
    [PLAN_READ_ONLY] = step_read_only,
    [PLAN_REMOUNT_ROOT] = step_remount_root,
    [PLAN_PIVOT] = step_pivot,
    [PLAN_HOSTNAME] = step_hostname,
    [PLAN_LOOPBACK] = step_loopback,
    [PLAN_RLIMIT] = step_rlimit,
    [PLAN_SYSCTL] = step_sysctl,
    [PLAN_CAPABILITIES] = step_capabilities,
    [PLAN_NO_NEW_PRIVS] = step_no_new_privs,
    [PLAN_LANDLOCK] = step_landlock,
    [PLAN_LANDLOCK_PATH] = step_landlock_path,
    [PLAN_LANDLOCK_APPLY] = step_landlock_apply,
    [PLAN_AGENT] = step_agent,
};

/* The pipe that tells the inner process to go on. */
enum { GO_READ, GO_WRITE, GO_ENDS };

static _Noreturn void fail(const struct sandbox *sandbox, const struct plan_step *step, sysret result, uint32_t inside)
{
    (void)status_send(sandbox->status_fd, (struct status_record){STATUS_STEP_FAILED, step->index, (uint32_t)-result, inside});
    ak_exit(1);
}

/* GO carries the slots, since the inner process has its own memory; EAGAIN: the outer process ended without it. */
static sysret read_go(struct sandbox *sandbox, const int *go)
{
    sysret got = SYS(read, go[GO_READ], sandbox->slots, sizeof sandbox->slots);
    return got == (sysret)sizeof sandbox->slots ? 0 : got < 0 ? got : -EIO;
}

/* Waits until the outer steps are done; ends the process if they failed, or if there is no caller any more. */
static void wait_for_go(struct sandbox *sandbox, const int *go)
{
    struct pollfd watched[] = {{.fd = go[GO_READ], .events = POLLIN}, {.fd = sandbox->outer, .events = POLLIN}, {.fd = sandbox->status_fd}};
    sysret result;
    do
        result = SYS(ppoll, watched, sizeof watched / sizeof *watched, NULL, NULL, 0);
    while (result == -EINTR);
    if (result < 0 || watched[2].revents || read_go(sandbox, go) < 0)
        ak_exit(1);
}

/*
 * `cursor` is behind CLONE, whose step is `clone`. The network namespace is made here, not by clone(2): it takes longer than all the others together, and the outer
 * steps need not wait for it.
 */
static _Noreturn void run_inside(struct sandbox *sandbox, struct plan_cursor cursor, const struct plan_step *clone, const int *go)
{
    struct plan_step step = {0};
    sysret unshared = clone->arguments[0].number & CLONE_NEWNET ? SYS(unshare, CLONE_NEWNET) : 0;
    while (plan_next(&cursor, &step) && step.op != PLAN_GO)
        continue;
    wait_for_go(sandbox, go);
    if (unshared < 0)
        fail(sandbox, clone, unshared, 1);
    (void)SYS(prctl, PR_SET_DUMPABLE, 0, 0, 0, 0); /* not before: the outer process writes to /proc/<pid>, which would then be root's */
    (void)SYS(setsid);                             /* no way to the caller's terminal */
    (void)SYS(umask, 0);
    while (plan_next(&cursor, &step)) {
        sysret result = functions[step.op](sandbox, &step);
        if (result < 0)
            fail(sandbox, &step, result, 1);
    }
    ak_exit(1); /* not reached: the last step of a checked plan is AGENT */
}

static void start_inner(struct sandbox *sandbox, const struct plan_cursor *cursor, const struct plan_step *step, const int *go)
{
    uint64_t namespaces = step->arguments[0].number & ~(uint64_t)CLONE_NEWNET;
    sysret pid = SYS(clone, CLONE_PARENT | CLONE_FILES | SIGCHLD | namespaces, 0, 0, 0, 0);
    if (pid < 0)
        fail(sandbox, step, pid, 0);
    if (pid == 0)
        run_inside(sandbox, *cursor, step, go);
    sandbox->inner = (int)pid;
    if (status_send(sandbox->status_fd, (struct status_record){.kind = STATUS_STARTED, .value = (uint32_t)pid}) < 0)
        ak_exit(1);
}

/* Does the steps up to GO. To fail is to end: the inner process sees it. */
static void run_outside(struct sandbox *sandbox, struct plan_cursor cursor, const int *go)
{
    struct plan_step step;
    while (plan_next(&cursor, &step)) {
        sysret result = 0;
        if (step.op == PLAN_CLONE)
            start_inner(sandbox, &cursor, &step, go);
        else if (step.op == PLAN_GO)
            result = ak_write_all(go[GO_WRITE], sandbox->slots, sizeof sandbox->slots);
        else
            result = functions[step.op](sandbox, &step);
        if (result < 0)
            fail(sandbox, &step, result, 0);
        if (step.op == PLAN_GO)
            return;
    }
}

/* Replaces 0-2 by a pipe without another end: nothing to read, nobody to write to, nothing of the host. */
static sysret leave_standard_streams(void)
{
    int ends[2];
    sysret result = SYS(pipe2, ends, O_CLOEXEC);
    if (result < 0)
        return result;
    if (ends[0] < 3 || ends[1] < 3)
        return -EBADF; /* the caller left one of 0-2 closed; other descriptors would end up there */
    for (int fd = 0; fd < 3 && result >= 0; fd++)
        result = SYS(dup3, ends[fd > 0], fd, O_CLOEXEC);
    (void)SYS(close, ends[0]);
    (void)SYS(close, ends[1]);
    return result;
}

/* Reads the plan to its end, at most one byte more than is allowed. */
static sysret read_plan(int fd, uint8_t *bytes)
{
    size_t size = 0;
    while (size <= PLAN_BYTES_MAX) {
        sysret got = SYS(read, fd, bytes + size, PLAN_BYTES_MAX + 1 - size);
        if (got == -EINTR)
            continue;
        if (got < 0)
            return got;
        if (got == 0)
            break;
        size += (size_t)got;
    }
    return (sysret)size;
}

static bool parse_fd(const char *text, int *fd)
{
    uint64_t value;
    if (!ak_parse_u64(text, 10, &value) || value < 3 || value > INT32_MAX)
        return false;
    *fd = (int)value;
    return true;
}

static bool parse_arguments(int argc, char **argv, int *plan_fd, int *status_fd)
{
    return argc == 4 && ak_streq(argv[0], "--plan-fd") && parse_fd(argv[1], plan_fd) && ak_streq(argv[2], "--status-fd") &&
           parse_fd(argv[3], status_fd) && *plan_fd != *status_fd;
}

/* The caller's environment stays on the stack of what becomes the agent, and may hold secrets. */
static void forget_environment(char **environment)
{
    for (; *environment; environment++)
        memset(*environment, 0, strlen(*environment));
}

static int launch(struct sandbox *sandbox, size_t size)
{
    struct plan_fault fault;
    struct plan_cursor cursor;
    int go[GO_ENDS];
    sysret result;
    if (!plan_check(sandbox->plan, size, &fault) || !plan_begin(&cursor, sandbox->plan, size)) {
        (void)status_send(sandbox->status_fd, (struct status_record){STATUS_MALFORMED, fault.step, EINVAL, fault.offset});
        return 1;
    }
    result = sandbox->outer = (int)SYS(pidfd_open, SYS(getpid), 0);
    if (result >= 0)
        result = SYS(pipe2, go, O_CLOEXEC | O_NONBLOCK);
    if (result < 0)
        fail(sandbox, &(struct plan_step){0}, result, 0);
    run_outside(sandbox, cursor, go);
    return 0;
}

int enter_main(int argc, char **argv)
{
    struct sandbox sandbox = {.userns = -1, .mapped_userns = -1, .root = -1, .ruleset = -1, .masks = {-1, -1}, .plan_bytes = PLAN_BYTES_MAX + 1};
    int plan_fd;
    sysret size;
    sandbox.cgroups.v2_directory = sandbox.cgroups.v2_procs = -1;
    if (!parse_arguments(argc, argv, &plan_fd, &sandbox.status_fd) || leave_standard_streams() < 0)
        return 2;
    forget_environment(argv + argc + 1);
    (void)SYS(fcntl, sandbox.status_fd, F_SETFD, FD_CLOEXEC);
    sandbox.plan = ak_map(sandbox.plan_bytes);
    size = sandbox.plan ? read_plan(plan_fd, sandbox.plan) : -ENOMEM;
    ak_close(plan_fd);
    if (size < 0) {
        (void)status_send(sandbox.status_fd, (struct status_record){STATUS_MALFORMED, 0, (uint32_t)-size, 0});
        return 1;
    }
    return launch(&sandbox, (size_t)size);
}
