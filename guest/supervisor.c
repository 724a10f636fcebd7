/* The supervisor of one command: starts it, waits for it, signals it, and ends its whole tree when told to. */
#include "supervisor.h"

#include "clock.h"
#include "clone.h"
#include "descriptor.h"
#include "kernel.h"
#include "tree.h"

#include <linux/poll.h>
#include <linux/prctl.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/signalfd.h>
#include <linux/wait.h>

#define KILL_ROUNDS_FAST 20
#define MAIN_STACK 65536u
#define ZOMBIE_ROUNDS 3 /* so often may only zombies (held by a foreign tracer) be left before they count as gone */

static void send_note(struct supervisor *s, const struct note *note)
{
    sysret sent;
    do
        sent = SYS(sendto, s->control, note, sizeof *note, 0, NULL, 0);
    while (sent == -EINTR);
}

/* The report pipe says how the exec went: nothing when it worked. */
static void read_report(struct supervisor *s)
{
    struct spawn_failure failure = {0};
    struct note note = {.kind = NOTE_STARTED, .pid = (uint32_t)s->main};
    sysret n;
    do
        n = SYS(read, s->report, &failure, sizeof failure);
    while (n == -EINTR);
    descriptor_close(&s->report);
    if (n == (sysret)sizeof failure) {
        s->failed = true;
        note = (struct note){.kind = NOTE_FAILED, .error = failure.error, .stage = failure.stage};
    }
    s->started = true;
    send_note(s, &note);
}

static uint64_t microseconds(long seconds, long rest)
{
    return (uint64_t)seconds * 1000000u + (uint64_t)rest;
}

static bool has_children(void)
{
    _Alignas(8) char info[128];
    return SYS(waitid, P_ALL, 0, info, WEXITED | WNOHANG | WNOWAIT | __WALL, NULL) == 0;
}

static void main_ended(struct supervisor *s, int status, const struct rusage *usage)
{
    struct note note = {
        .kind = NOTE_ENDED,
        .status = (uint32_t)status,
        .user_us = microseconds(usage->ru_utime.tv_sec, usage->ru_utime.tv_usec),
        .system_us = microseconds(usage->ru_stime.tv_sec, usage->ru_stime.tv_usec),
        .max_rss_bytes = (uint64_t)usage->ru_maxrss * 1024u,
    };
    if (s->report >= 0)
        read_report(s); /* it is dead, so this does not wait */
    s->main = 0;
    if (s->failed)
        ak_exit(0);
    note.children = has_children();
    send_note(s, &note);
}

/* Takes all that ended; false when no child is left. */
static bool reap(struct supervisor *s)
{
    struct rusage usage;
    int status;
    for (;;) {
        sysret pid = SYS(wait4, -1, &status, WNOHANG | __WALL, &usage);
        if (pid == s->main && pid > 0)
            main_ended(s, status, &usage);
        if (pid == 0 || pid == -EINTR)
            return true;
        if (pid < 0)
            return false;
    }
}

/* Waits for a SIGCHLD, at most `ms`; false when none came. */
static bool wait_for_child(const struct supervisor *s, long ms)
{
    struct signalfd_siginfo info;
    struct pollfd poll = {.fd = s->signals, .events = POLLIN};
    struct __kernel_timespec timeout = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    sysret ready = SYS(ppoll, &poll, s->signals >= 0 ? 1 : 0, &timeout, NULL, 8);
    if (ready > 0)
        (void)SYS(read, s->signals, &info, sizeof info);
    return ready > 0;
}

static _Noreturn void gone(struct supervisor *s)
{
    struct note note = {.kind = NOTE_GONE};
    send_note(s, &note);
    ak_exit(0);
}

/* Ends every descendant and exits. */
static _Noreturn void kill_everything(struct supervisor *s)
{
    struct tree tree = {.proc = s->proc, .root = (int)SYS(getpid)};
    unsigned zombie_rounds = 0;
    (void)SYS(setpriority, PRIO_PROCESS, 0, -20); /* a fork bomb takes every turn it can get; refused without CAP_SYS_NICE */
    for (unsigned round = 0; zombie_rounds < ZOMBIE_ROUNDS; round++) {
        unsigned alive = tree_fell(&tree);
        do
            if (!reap(s))
                gone(s);
        while (wait_for_child(s, round < KILL_ROUNDS_FAST ? 5 : 100));
        zombie_rounds = alive || s->proc < 0 ? 0 : zombie_rounds + 1;
    }
    gone(s);
}

/* Leaves the descendants to PID 1 and exits. */
static _Noreturn void release(struct supervisor *s)
{
    struct note note = {.kind = NOTE_RELEASED};
    if (!reap(s))
        gone(s);
    send_note(s, &note);
    ak_exit(0);
}

static void pass_signal(struct supervisor *s, const struct order *order)
{
    struct tree tree = {.proc = s->proc, .root = (int)SYS(getpid)};
    struct note note = {.kind = NOTE_SIGNALLED, .id = order->id};
    sysret result = -ESRCH;
    if (order->whole_tree)
        result = tree_signal(&tree, (int)order->signal) ? 0 : -ESRCH;
    else if (s->main)
        result = SYS(kill, s->main, order->signal); /* not yet waited for, so the pid is still its own */
    tree_free(&tree);
    note.error = (int32_t)-result;
    send_note(s, &note);
}

static void take_order(struct supervisor *s)
{
    struct order order;
    sysret n = SYS(recvfrom, s->control, &order, sizeof order, 0, NULL, NULL);
    if (n == -EINTR)
        return;
    if (n != (sysret)sizeof order || order.kind == ORDER_KILL)
        kill_everything(s); /* told to, or the agent is gone */
    if (order.kind == ORDER_RELEASE)
        release(s);
    pass_signal(s, &order);
}

static void child_changed(struct supervisor *s)
{
    struct signalfd_siginfo info;
    (void)SYS(read, s->signals, &info, sizeof info);
    if (!reap(s))
        gone(s);
}

static _Noreturn void supervise(struct supervisor *s)
{
    for (;;) {
        struct pollfd polls[] = {
            {.fd = s->signals, .events = POLLIN},
            {.fd = s->control, .events = POLLIN},
            {.fd = s->report, .events = POLLIN},
        };
        struct __kernel_timespec tick = {.tv_nsec = 20000000};
        sysret ready = SYS(ppoll, polls, 3, s->signals < 0 ? &tick : NULL, NULL, 8);
        if (ready < 0 && ready != -EINTR)
            kill_everything(s);
        if (polls[2].fd >= 0 && polls[2].revents)
            read_report(s);
        if (polls[0].revents || s->signals < 0)
            child_changed(s);
        if (polls[1].revents)
            take_order(s);
    }
}

struct main_start {
    const struct spawn *spawn;
    int report;
    bool in_cgroup;
};

static void run_main(void *argument)
{
    const struct main_start *start = argument;
    spawn_run(start->spawn, start->report, start->in_cgroup);
}

/* Until its exec, a program borrows the supervisor's memory; what is built in has no exec, and gets memory of its own. */
static sysret clone_main(struct main_start *start, uint64_t flags)
{
    static _Alignas(16) uint8_t stack[MAIN_STACK];
    const struct spawn *spawn = start->spawn;
    bool borrows = !spawn->request->builtin;
    struct ak_clone_arguments arguments = {.flags = flags, .exit_signal = SIGCHLD, .cgroup = (uint64_t)spawn->cgroups->v2_directory};
    if (borrows) {
        arguments.flags |= CLONE_VM | CLONE_VFORK;
        arguments.stack = (uint64_t)(uintptr_t)stack;
        arguments.stack_size = sizeof stack;
    }
    if (flags)
        return borrows ? clone_onto(__NR_clone3, (long)&arguments, sizeof arguments, run_main, start)
                       : SYS(clone3, &arguments, sizeof arguments);
    arguments.flags |= SIGCHLD;
    return borrows ? clone_onto(__NR_clone, (long)arguments.flags, (long)(stack + sizeof stack), run_main, start) : process_fork();
}

/* Forks the main process, into its cgroup at once where the kernel can: then not even its first page is charged to the agent. */
static sysret fork_main(struct main_start *start)
{
    sysret pid = -ENOSYS;
    start->in_cgroup = start->spawn->cgroups->v2_directory >= 0;
    if (start->in_cgroup)
        pid = clone_main(start, CLONE_INTO_CGROUP);
    if (pid < 0) {
        start->in_cgroup = false;
        pid = clone_main(start, 0);
    }
    if (pid == 0)
        run_main(start);
    return pid;
}

static void start_main(struct supervisor *s, const struct spawn *spawn)
{
    struct note note = {.kind = NOTE_FAILED, .stage = STAGE_FORK};
    int report[2];
    sysret pid = descriptor_pipe(report);
    if (pid == 0) {
        struct main_start start = {.spawn = spawn, .report = report[1]};
        pid = fork_main(&start);
    }
    if (pid < 0) {
        note.error = (int32_t)-pid;
        send_note(s, &note);
        ak_exit(0);
    }
    s->main = (int)pid;
    s->report = report[0];
    (void)SYS(close, report[1]);
    (void)SYS(close, spawn->input);
    if (spawn->output != spawn->input)
        (void)SYS(close, spawn->output);
    if (spawn->error != spawn->output)
        (void)SYS(close, spawn->error);
}

static void keep_own_descriptors(const struct spawn *spawn, int control, int proc)
{
    /* 0-2 stay taken, so that nothing that the child still needs is where its own 0-2 go. */
    const struct agent_cgroups *cgroups = spawn->cgroups;
    int keep[18] = {0, 1, 2, control, proc, spawn->input, spawn->output, spawn->error, cgroups->v2_directory, cgroups->v2_procs};
    unsigned n = 10;
    for (unsigned i = 0; i < cgroups->v1_count; i++)
        keep[n++] = cgroups->v1_tasks[i];
    descriptor_close_others(keep, n);
}

void supervisor_begin(struct supervisor *s, const struct spawn *spawn, int control, int proc)
{
    uint64_t child = 1ull << (SIGCHLD - 1);
    *s = (struct supervisor){.control = control, .signals = -1, .report = -1, .proc = proc};
    (void)SYS(prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    (void)SYS(prctl, PR_SET_NAME, "ak-supervisor", 0, 0, 0);
    keep_own_descriptors(spawn, control, proc);
    s->signals = (int)SYS(signalfd4, -1, &child, sizeof child, O_CLOEXEC | O_NONBLOCK);
}

_Noreturn void supervisor_run(struct supervisor *s, const struct spawn *spawn)
{
    start_main(s, spawn);
    supervise(s);
}
