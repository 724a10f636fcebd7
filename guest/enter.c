/*
 * The launcher. The outer process checks the plan and does the steps in the caller's namespaces; the inner process, a sibling of it, waits
 * for GO, builds the sandbox and becomes the agent.
 *
 * Neither must outlive the other's failure, or the caller's, with the sandbox half built. They share their descriptors, so the end of one
 * closes nothing for the other: the inner process polls a pidfd of the outer. The caller is watched through the status descriptor, whose
 * other end it holds - a parent-death signal would not do: it comes when the *thread* that started the launcher ends, and is lost when the
 * process changes its user.
 */
#include "enter.h"

#include "handover.h"
#include "kernel.h"
#include "network.h"
#include "sandbox.h"
#include "status.h"

#include <asm/signal.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
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
    [PLAN_REMOUNT] = step_remount,
    [PLAN_PIVOT] = step_pivot,
    [PLAN_HOSTNAME] = step_hostname,
    [PLAN_LOOPBACK] = step_loopback,
    [PLAN_RLIMIT] = step_rlimit,
    [PLAN_SYSCTL] = step_sysctl,
    [PLAN_TRANSPARENT] = step_transparent,
    [PLAN_CAPABILITIES] = step_capabilities,
    [PLAN_NO_NEW_PRIVS] = step_no_new_privs,
    [PLAN_LANDLOCK] = step_landlock,
    [PLAN_LANDLOCK_PATH] = step_landlock_path,
    [PLAN_LANDLOCK_APPLY] = step_landlock_apply,
    [PLAN_AGENT] = step_agent,
    [PLAN_PROGRAM] = step_program,
};

static _Noreturn void fail(const struct sandbox *sandbox, uint32_t index, sysret result, uint32_t inside)
{
    (void)status_send(sandbox->status_fd, (struct status_record){STATUS_STEP_FAILED, index, (uint32_t)-result, inside});
    ak_exit(1);
}

/* What sets up a network namespace of the sandbox's own: the outer process does it there, right after it has made it. */
static bool is_of_network(const struct plan_step *step)
{
    return step->op == PLAN_LOOPBACK || step->op == PLAN_TRANSPARENT ||
           (step->op == PLAN_SYSCTL && memcmp(step->arguments[0].text, "net/", 4) == 0);
}

/* Steps that build the root, and the limits of the user namespace, are done while the network is being made. */
static bool needs_network(const struct plan_step *step)
{
    return step->op >= PLAN_PIVOT && step->op != PLAN_SYSCTL;
}

static void do_inside(struct sandbox *sandbox, const struct plan_step *step)
{
    sysret result;
    if (is_of_network(step))
        return;
    result = needs_network(step) ? network_join(sandbox) : 0;
    if (result < 0)
        fail(sandbox, sandbox->clone_index, result, 1);
    result = functions[step->op](sandbox, step);
    if (result < 0)
        fail(sandbox, step->index, result, 1);
}

/* Its first act: so whenever there is an inner process the caller hears of its child, even if the outer one was killed just after clone(2). */
static void report_start(const struct sandbox *sandbox, int *pid)
{
    if (status_send(sandbox->status_fd, (struct status_record){.kind = STATUS_STARTED, .value = (uint32_t)*pid}) < 0)
        ak_exit(1);
    ak_unmap(pid, sizeof *pid);
}

static _Noreturn void run_inside(struct sandbox *sandbox, struct plan_cursor cursor)
{
    struct plan_step step = {0};
    while (plan_next(&cursor, &step) && step.op != PLAN_GO)
        continue;
    handover_receive(sandbox, sandbox->slots, sizeof sandbox->slots);
    (void)SYS(prctl, PR_SET_DUMPABLE, 0, 0, 0, 0); /* not before: the outer process writes to /proc/<pid>, which would then be root's */
    (void)SYS(setsid);                             /* no way to the caller's terminal */
    (void)SYS(umask, 0);
    while (plan_next(&cursor, &step))
        do_inside(sandbox, &step);
    ak_exit(1); /* not reached: the last step of a checked plan is AGENT or PROGRAM */
}

/*
 * A process that moves to another v2 group waits for an RCU grace period, one that is born there does not; and only from a group beside theirs
 * may the agent, with the ids that it has then, clone processes into the sandbox's. Where this is refused it stays in our group, and they move.
 */
static sysret clone_inner(const struct sandbox *sandbox, sysret shared)
{
    uint64_t flags = CLONE_PARENT | CLONE_FILES | CLONE_PARENT_SETTID | (sandbox->namespaces & ~(uint64_t)CLONE_NEWNET);
    struct ak_clone_arguments arguments = {
        .flags = flags | CLONE_INTO_CGROUP,
        .parent_tid = (uint64_t)shared,
        .cgroup = (uint64_t)sandbox->first_cgroup,
    };
    sysret pid = sandbox->first_cgroup >= 0 ? SYS(clone3, &arguments, sizeof arguments) : -ENOSYS;
    return pid >= 0 ? pid : SYS(clone, flags | SIGCHLD, 0, shared, 0, 0);
}

/* Its pid, as the caller sees it, is known only outside: the kernel writes it to memory that both share before the inner process runs. */
static sysret start_inner(struct sandbox *sandbox, const struct plan_cursor *cursor, const struct plan_step *step)
{
    sysret pid, shared = SYS(mmap, NULL, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared < 0 && shared > -4096)
        return shared;
    sandbox->clone_index = step->index;
    sandbox->namespaces = step->arguments[0].number;
    pid = clone_inner(sandbox, shared);
    if (pid == 0) {
        report_start(sandbox, (int *)shared);
        run_inside(sandbox, *cursor);
    }
    sandbox->inner = (int)pid;
    return pid;
}

/* The inner process may go on; it has its own memory, so it is told the slots. */
static sysret go(struct sandbox *sandbox)
{
    sysret result = network_prepare(sandbox);
    return result < 0 ? result : handover_send(sandbox, sandbox->slots, sizeof sandbox->slots);
}

static sysret do_outside(struct sandbox *sandbox, const struct plan_cursor *cursor, const struct plan_step *step)
{
    switch (step->op) {
    case PLAN_CLONE: return start_inner(sandbox, cursor, step);
    case PLAN_GO: return go(sandbox);
    default: return functions[step->op](sandbox, step);
    }
}

static void set_up_network(struct sandbox *sandbox, struct plan_cursor cursor)
{
    struct plan_step step = {0};
    sysret result, network = network_make(sandbox);
    if (network < 0)
        fail(sandbox, sandbox->clone_index, network, 0);
    while (plan_next(&cursor, &step))
        if (is_of_network(&step) && (result = functions[step.op](sandbox, &step)) < 0)
            fail(sandbox, step.index, result, 0);
    result = network_hand_over(sandbox, network);
    if (result < 0)
        fail(sandbox, sandbox->clone_index, result, 0);
}

/* Does the steps up to GO, and then the network. To fail is to end: the inner process sees it. */
static void run_outside(struct sandbox *sandbox, struct plan_cursor cursor)
{
    struct plan_step step = {0};
    sysret result;
    while (step.op != PLAN_GO && plan_next(&cursor, &step)) {
        result = do_outside(sandbox, &cursor, &step);
        if (result < 0)
            fail(sandbox, step.index, result, 0);
    }
    set_up_network(sandbox, cursor);
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
    sysret result;
    if (!plan_check(sandbox->plan, size, &fault) || !plan_begin(&cursor, sandbox->plan, size)) {
        (void)status_send(sandbox->status_fd, (struct status_record){STATUS_MALFORMED, fault.step, EINVAL, fault.offset});
        return 1;
    }
    result = sandbox->outer = (int)SYS(pidfd_open, SYS(getpid), 0);
    if (result >= 0)
        result = handover_begin(sandbox);
    if (result < 0)
        fail(sandbox, 0, result, 0);
    run_outside(sandbox, cursor);
    return 0;
}

int enter_main(int argc, char **argv)
{
    struct sandbox sandbox = {
        .userns = -1, .mapped_userns = -1, .first_cgroup = -1, .root = -1, .ruleset = -1, .masks = {-1, -1}, .plan_bytes = PLAN_BYTES_MAX + 1,
    };
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
