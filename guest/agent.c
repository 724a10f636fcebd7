/*
 * The agent: one thread, one epoll. It accepts attaches, carries out the host's frames, moves bytes, reaps, and keeps deadlines.
 *
 * Descriptors are watched edge-triggered and remembered as readable or writable until the kernel says EAGAIN, so that a full ring or a slow
 * host costs no wake-ups. Records and links with something to do are worked on in turns; only when none has is there a wait.
 */
#include "state.h"

#include "clock.h"
#include "descriptor.h"
#include "listener.h"

#include <linux/eventpoll.h>
#include <linux/poll.h>
#include <linux/prctl.h>
#include <linux/random.h>
#include <linux/signalfd.h>
#include <linux/wait.h>

#define EVENTS 64
#define FRAMES_PER_TURN 64
#define RETRY_MS 1000
#define POLL_MS 20          /* where there is no signalfd */
#define SWEEP_MS 10         /* between two looks at what is left of a lost tree */
#define SHUTDOWN_MS 5000

static struct agent the_agent;

sysret agent_watch(const struct agent *agent, int fd, enum source source, unsigned slot, uint32_t events)
{
    struct epoll_event event = {.events = events | (source == SOURCE_LISTEN ? 0 : EPOLLET), .data = (uint64_t)source << 32 | slot};
    return SYS(epoll_ctl, agent->epoll, EPOLL_CTL_ADD, fd, &event);
}

void agent_wake_at(struct agent *agent, uint64_t at_ms)
{
    if (!agent->earliest_ms || at_ms < agent->earliest_ms)
        agent->earliest_ms = at_ms;
}

void agent_sweep(struct agent *agent)
{
    agent->sweeping = true;
    agent->sweep_passes = 0;
    agent->sweep_at = agent->now_ms;
}

static void detach(struct agent *agent)
{
    if (!agent->current)
        return;
    agent->current->attached = false;
    agent->current = NULL;
    for (unsigned i = 0; i < agent->table.used; i++)
        if (agent->table.slots[i])
            process_unsubscribe(agent, agent->table.slots[i]);
}

void agent_drop(struct agent *agent, struct link *link)
{
    if (link == agent->current)
        detach(agent);
    if (link->boundless)
        link_drop_output(link);
    else
        link_close(link);
}

/* --- Links ------------------------------------------------------------------------------------------------------------------------- */

static uint32_t attach_state(const struct agent *agent)
{
    return (agent->configured ? ATTACH_CONFIGURED : 0) | (agent->can_switch_user ? ATTACH_SEPARATE_USER : 0) | (agent->is_init ? ATTACH_INIT : 0);
}

static void attach(struct agent *agent, struct link *link, const struct hello *hello)
{
    bool accepted = attach_version(hello) != 0;
    uint8_t *reply;
    if (agent->current == link)
        detach(agent);
    if (accepted && agent->current)
        agent_drop(agent, agent->current);
    link_drop_output(link);
    reply = link_reserve(link, HELLO_REPLY_SIZE);
    attach_reply(reply, hello, attach_state(agent), agent->boot_id);
    link_commit(link, HELLO_REPLY_SIZE);
    link->attached = accepted;
    link->tag = hello->tag;
    if (accepted)
        agent->current = link;
    if (!link_flush(link))
        agent_drop(agent, link);
}

/* Returns whether there may be more to do on the link without waiting. */
static bool serve_link(struct agent *agent, struct link *link)
{
    struct frame frame;
    struct hello hello;
    enum link_event event = link_fill(link);
    for (unsigned n = 0; n < FRAMES_PER_TURN && event != LINK_LOST; n++) {
        if (link_room(link) < MAX_FRAME || agent->ending)
            return false;
        event = link_next(link, &frame, &hello);
        if (event == LINK_NOTHING)
            return link->readable;
        if (event == LINK_FRAME)
            handle_frame(agent, &frame);
        else if (event == LINK_ATTACH)
            attach(agent, link, &hello);
        else
            agent_drop(agent, link);
        if (link->in < 0)
            return false;
    }
    if (event != LINK_LOST)
        return true;
    agent_drop(agent, link);
    if (link->boundless)
        agent->retry_ms = agent->now_ms + RETRY_MS;
    return false;
}

static bool serve_links(struct agent *agent)
{
    bool more = false;
    for (unsigned i = 0; i < LINKS; i++) {
        struct link *link = &agent->links[i];
        if (link->in < 0)
            continue;
        more = serve_link(agent, link) || more;
        if (link->in >= 0 && !link_flush(link))
            agent_drop(agent, link);
    }
    return more;
}

/* A free place, or that of the connection that has been silent for longest. */
static struct link *place_for_link(struct agent *agent)
{
    struct link *oldest = NULL;
    for (unsigned i = 0; i < LINKS; i++) {
        struct link *link = &agent->links[i];
        if (link->in < 0)
            return link;
        if (link != agent->current && (!oldest || link->opened_ms < oldest->opened_ms))
            oldest = link;
    }
    link_close(oldest);
    return oldest;
}

static void add_link(struct agent *agent, int in, int out, bool boundless)
{
    struct link *link = place_for_link(agent);
    unsigned index = (unsigned)(link - agent->links);
    if (!link_open(link, in, out, boundless))
        return;
    link->opened_ms = agent->now_ms;
    (void)agent_watch(agent, in, SOURCE_LINK, index, out == in ? EPOLLIN | EPOLLOUT : EPOLLIN);
    if (out != in)
        (void)agent_watch(agent, out, SOURCE_LINK, index, EPOLLOUT);
}

static void accept_links(struct agent *agent)
{
    sysret fd;
    while ((fd = listener_accept(agent->listen, agent->proc, agent->is_init)) >= 0 || fd == -EPERM)
        if (fd >= 0)
            add_link(agent, (int)fd, (int)fd, false);
    if (fd == -EAGAIN || fd == -EINTR || fd == -ECONNABORTED)
        return;
    /* No descriptor or memory is free: a level-triggered listener would turn the loop into a busy one. */
    (void)SYS(epoll_ctl, agent->epoll, EPOLL_CTL_DEL, agent->listen, NULL);
    agent->retry_ms = agent->now_ms + RETRY_MS;
}

static void retry(struct agent *agent)
{
    agent->retry_ms = 0;
    if (agent->listen >= 0)
        (void)agent_watch(agent, agent->listen, SOURCE_LISTEN, 0, EPOLLIN);
    for (unsigned i = 0; i < LINKS; i++)
        if (agent->links[i].in >= 0 && agent->links[i].boundless)
            agent->links[i].readable = true;
}

/* --- Children ---------------------------------------------------------------------------------------------------------------------- */

static void reaped(struct agent *agent, int pid, int status)
{
    struct process *p = table_find_supervisor(&agent->table, pid);
    if (p) {
        process_supervisor_ended(agent, p);
        return;
    }
    for (unsigned i = 0; i < agent->table.used && agent->sweeping; i++) {
        p = agent->table.slots[i];
        if (p && p->awaits_sweep && p->main == pid)
            process_main_reaped(p, status);
    }
}

static void reap(struct agent *agent)
{
    for (;;) {
        int status = 0;
        sysret pid = SYS(wait4, -1, &status, WNOHANG | __WALL, NULL);
        if (pid <= 0 && pid != -EINTR)
            return;
        if (pid > 0)
            reaped(agent, (int)pid, status);
    }
}

static void read_signals(struct agent *agent)
{
    struct signalfd_siginfo info;
    while (agent->signals >= 0 && SYS(read, agent->signals, &info, sizeof info) == (sysret)sizeof info)
        /* To PID 1, a signal with a sender that is visible here comes from the workload: it may not end its own sandbox that way. */
        if (info.ssi_signo != SIGCHLD && !(agent->is_init && info.ssi_pid != 0))
            agent->ending = true;
    reap(agent);
}

/* One pass over the processes that no living supervisor looks after; a pass per turn, so that the agent stays responsive. */
static void sweep_step(struct agent *agent)
{
    struct tree *tree = &agent->sweep;
    *tree = (struct tree){
        .proc = agent->proc,
        .root = (int)SYS(getpid),
        .spared = agent->table.supervisors,
        .spared_count = agent->table.used,
        .entries = tree->entries,
        .room = tree->room,
        .fingerprint = tree->fingerprint,
    };
    if (agent->sweep_passes++ < 64 && !tree_stop(tree))
        return;
    agent->sweep_passes = 0;
    agent->sweep_at = agent->now_ms + SWEEP_MS;
    if (tree_kill(tree))
        return;
    reap(agent);
    agent->sweeping = false;
    tree_free(tree);
    for (unsigned i = 0; i < agent->table.used; i++)
        if (agent->table.slots[i])
            process_swept(agent, agent->table.slots[i]);
}

/* --- The loop ---------------------------------------------------------------------------------------------------------------------- */

static void take_process_event(struct agent *agent, enum source source, unsigned slot, uint32_t events)
{
    struct process *p = slot < SLOTS ? agent->table.slots[slot] : NULL;
    if (!p)
        return;
    if (source == SOURCE_CONTROL)
        p->control_readable = true;
    else if (source == SOURCE_STDOUT || source == SOURCE_STDERR)
        p->outlets[source - SOURCE_STDOUT].readable = true;
    else
        p->input_writable = true;
    if (source == SOURCE_STDIN && events & EPOLLERR && !p->terminal)
        pump_input_closed(p);
    process_activate(agent, p);
}

static void take_link_event(struct agent *agent, struct link *link, uint32_t events)
{
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP))
        link->readable = true;
    if (!(events & (EPOLLOUT | EPOLLHUP | EPOLLERR)))
        return;
    link->writable = true;
    for (unsigned i = 0; i < agent->table.used && link == agent->current; i++)
        if (agent->table.slots[i] && agent->table.slots[i]->subscribed)
            process_activate(agent, agent->table.slots[i]);
}

static void take_event(struct agent *agent, const struct epoll_event *event)
{
    enum source source = (enum source)(event->data >> 32);
    unsigned slot = (unsigned)event->data;
    if (source == SOURCE_LISTEN)
        accept_links(agent);
    else if (source == SOURCE_SIGNALS)
        read_signals(agent);
    else if (source == SOURCE_LINK)
        take_link_event(agent, &agent->links[slot % LINKS], event->events);
    else
        take_process_event(agent, source, slot, event->events);
}

static bool step_active(struct agent *agent)
{
    struct process *last = agent->active_last;
    while (agent->active_first) {
        struct process *p = agent->active_first;
        bool is_last = p == last;
        agent->active_first = p->next_active;
        if (!agent->active_first)
            agent->active_last = NULL;
        p->active = false;
        process_step(agent, p);
        if (is_last)
            break;
    }
    return agent->active_first != NULL;
}

static void check_deadlines(struct agent *agent)
{
    if (agent->retry_ms && agent->now_ms >= agent->retry_ms)
        retry(agent);
    if (agent->sweeping && agent->now_ms >= agent->sweep_at)
        sweep_step(agent);
    if (!agent->earliest_ms || agent->now_ms < agent->earliest_ms)
        return;
    agent->earliest_ms = 0;
    for (unsigned i = 0; i < agent->table.used; i++) {
        struct process *p = agent->table.slots[i];
        uint64_t next;
        if (!p)
            continue;
        process_check_deadlines(agent, p);
        next = process_next_deadline(p);
        if (next)
            agent_wake_at(agent, next);
    }
}

static int wait_ms(const struct agent *agent, bool more)
{
    uint64_t next = agent->earliest_ms;
    if (more)
        return 0;
    if (agent->retry_ms && (!next || agent->retry_ms < next))
        next = agent->retry_ms;
    if (agent->sweeping && (!next || agent->sweep_at < next))
        next = agent->sweep_at;
    if (agent->signals < 0 && (!next || agent->now_ms + POLL_MS < next))
        next = agent->now_ms + POLL_MS;
    if (!next)
        return -1;
    if (next <= agent->now_ms)
        return 0;
    return next - agent->now_ms < 3600000 ? (int)(next - agent->now_ms) : 3600000;
}

static void run(struct agent *agent)
{
    struct epoll_event events[EVENTS];
    bool more = true;
    while (!agent->ending) {
        sysret n = SYS(epoll_pwait, agent->epoll, events, EVENTS, wait_ms(agent, more), NULL, 8);
        agent->now_ms = monotonic_ms();
        for (sysret i = 0; i < n; i++)
            take_event(agent, &events[i]);
        if (agent->signals < 0)
            reap(agent);
        check_deadlines(agent);
        more = serve_links(agent);
        more = step_active(agent) || more;
    }
}

/* --- Beginning and end ------------------------------------------------------------------------------------------------------------- */

/* The answer to SHUTDOWN should arrive, but a host that does not read must not keep the sandbox alive. */
static void flush_last(struct agent *agent)
{
    struct link *link = agent->current;
    uint64_t until = agent->now_ms + RETRY_MS;
    while (link && link_flush(link) && link->out_start < link->out_end && monotonic_ms() < until) {
        struct pollfd poll = {.fd = link->out, .events = POLLOUT};
        struct __kernel_timespec timeout = {.tv_nsec = 100000000};
        (void)SYS(ppoll, &poll, 1, &timeout, NULL, 8);
        link->writable = true;
    }
}

static int shut_down(struct agent *agent)
{
    struct tree tree = {.proc = agent->proc, .root = (int)SYS(getpid)};
    uint64_t until = monotonic_ms() + SHUTDOWN_MS;
    flush_last(agent);
    while (monotonic_ms() < until) {
        struct __kernel_timespec pause = {.tv_nsec = 2000000};
        if (agent->is_init)
            (void)SYS(kill, -1, SIGKILL);
        else
            (void)tree_fell(&tree);
        while (SYS(wait4, -1, NULL, WNOHANG | __WALL, NULL) > 0)
            ;
        if (SYS(wait4, -1, NULL, WNOHANG | __WALL, NULL) == -ECHILD)
            break;
        (void)SYS(nanosleep, &pause, NULL);
    }
    return 0;
}

static void make_boot_id(struct agent *agent)
{
    uint64_t mixed[2] = {clock_us(CLOCK_REALTIME) ^ (uint64_t)(uintptr_t)&mixed, clock_us(CLOCK_MONOTONIC) * 0x9e3779b97f4a7c15u ^ (uint64_t)SYS(getpid)};
    if (SYS(getrandom, agent->boot_id, EPOCH_SIZE, GRND_NONBLOCK) == (sysret)EPOCH_SIZE)
        return;
    /* Early in the boot of a virtual machine there may be no entropy yet; the id need only differ, nothing secret depends on it. */
    memcpy(agent->boot_id, mixed, EPOCH_SIZE);
}

/* Whether the ids of usual workloads can be switched to; asked of the file system uid, which can be put back. */
static bool can_switch_user(void)
{
    static const unsigned candidates[] = {1000, 65534, 1};
    long own = SYS(setfsuid, -1);
    bool can = false;
    for (unsigned i = 0; i < 3; i++) {
        if ((long)candidates[i] == own)
            continue;
        (void)SYS(setfsuid, candidates[i]);
        can = can || SYS(setfsuid, -1) == (long)candidates[i];
        (void)SYS(setfsuid, own);
    }
    return can;
}

/* The agent executes nothing, so its own capabilities stay; what it starts could gain none. Once here, because each drop costs a started process time. */
static void drop_bounding_set(void)
{
    for (int capability = 0; SYS(prctl, PR_CAPBSET_DROP, capability, 0, 0, 0) == 0; capability++)
        ;
}

/* Everything is blocked and nothing ignored but SIGPIPE; started processes get the usual dispositions back. */
static void set_signals(struct agent *agent)
{
    _Alignas(8) char action[64] = {0};
    uint64_t all = ~0ull;
    uint64_t wanted = 1ull << (SIGCHLD - 1) | 1ull << (SIGTERM - 1) | (agent->is_init ? 0 : 1ull << (SIGINT - 1) | 1ull << (SIGHUP - 1));
    (void)SYS(rt_sigprocmask, SIG_SETMASK, &all, NULL, 8);
    for (int number = 1; number <= 64; number++)
        (void)SYS(rt_sigaction, number, action, NULL, 8);
    action[0] = 1; /* SIG_IGN */
    (void)SYS(rt_sigaction, SIGPIPE, action, NULL, 8);
    agent->signals = (int)SYS(signalfd4, -1, &wanted, sizeof wanted, O_CLOEXEC | O_NONBLOCK);
    if (agent->signals >= 0)
        (void)agent_watch(agent, agent->signals, SOURCE_SIGNALS, 0, EPOLLIN);
}

static void raise_file_limit(struct agent *agent)
{
    struct rlimit64 raised;
    if (SYS(prlimit64, 0, RLIMIT_NOFILE, NULL, &agent->files))
        agent->files.rlim_max = 0;
    raised = agent->files;
    raised.rlim_cur = raised.rlim_max < DESCRIPTORS_MAX ? raised.rlim_max : DESCRIPTORS_MAX;
    if (raised.rlim_cur > agent->files.rlim_cur)
        (void)SYS(prlimit64, 0, RLIMIT_NOFILE, &raised, NULL);
}

/* Something to read nothing from, and to keep 0-2 taken: a pipe to or from the workload must never get such a number. */
static bool open_null(struct agent *agent)
{
    int pair[2];
    sysret fd = SYS(openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC | O_NOCTTY);
    while (fd >= 0 && fd < 3)
        fd = SYS(fcntl, fd, F_DUPFD, 3); /* leaves the low one open on purpose */
    if (fd < 0) {
        if (descriptor_pipe(pair))
            return false;
        while (pair[0] < 3 && pair[0] >= 0)
            pair[0] = (int)SYS(fcntl, pair[0], F_DUPFD_CLOEXEC, 3);
        if (pair[1] >= 3)
            (void)SYS(close, pair[1]);
        fd = pair[0];
    }
    agent->null = (int)fd;
    for (int low = 0; low < 3 && fd >= 0; low++)
        if (SYS(fcntl, low, F_GETFD) < 0)
            (void)SYS(dup3, fd, low, 0);
    return fd >= 0;
}

static bool prepare(struct agent *agent, const struct agent_cgroups *cgroups)
{
    agent->cgroups = cgroups ? *cgroups : (struct agent_cgroups){.v2_directory = -1, .v2_procs = -1};
    agent->listen = -1;
    for (unsigned i = 0; i < LINKS; i++)
        agent->links[i].in = agent->links[i].out = -1;
    agent->is_init = SYS(getpid) == 1;
    agent->can_switch_user = can_switch_user();
    drop_bounding_set();
    (void)SYS(prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
    (void)SYS(prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    agent->now_ms = agent->started_ms = monotonic_ms();
    make_boot_id(agent);
    raise_file_limit(agent);
    agent->proc = tree_open_proc();
    agent->epoll = (int)SYS(epoll_create1, O_CLOEXEC);
    if (agent->epoll < 0 || !open_null(agent))
        return false;
    set_signals(agent);
    return true;
}

/* Moves a descriptor out of the way of 0-2. */
static int out_of_the_way(int fd)
{
    return fd < 3 ? (int)SYS(fcntl, fd, F_DUPFD_CLOEXEC, 3) : fd;
}

int agent_serve(int listen_fd, const struct agent_cgroups *cgroups)
{
    struct agent *agent = &the_agent;
    listen_fd = out_of_the_way(listen_fd);
    if (listen_fd < 0 || !prepare(agent, cgroups))
        return 1;
    agent->listen = listen_fd;
    (void)descriptor_nonblocking(listen_fd, true);
    (void)SYS(fcntl, listen_fd, F_SETFD, FD_CLOEXEC);
    if (agent_watch(agent, listen_fd, SOURCE_LISTEN, 0, EPOLLIN) < 0)
        return 1;
    run(agent);
    return shut_down(agent);
}

static int serve_stream(int in, int out)
{
    struct agent *agent = &the_agent;
    int kept_in = out_of_the_way(in);
    int kept_out = out == in ? kept_in : out_of_the_way(out);
    if (kept_in < 0 || kept_out < 0)
        return 1;
    /* The workload must not find the stream on its own descriptors; open_null fills the places. */
    for (int low = 0; low < 2 && in < 3; low++)
        (void)SYS(close, low);
    if (!prepare(agent, NULL))
        return 1;
    stream_prepare(kept_in);
    if (kept_out != kept_in)
        stream_prepare(kept_out);
    add_link(agent, kept_in, kept_out, true);
    run(agent);
    return shut_down(agent);
}

static int serve_stream_argument(const char *argument)
{
    uint64_t fd;
    sysret opened;
    if (ak_parse_u64(argument, 10, &fd))
        return fd <= INT32_MAX ? serve_stream((int)fd, fd == 0 ? 1 : (int)fd) : 2;
    opened = SYS(openat, AT_FDCWD, argument, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    return opened < 0 ? 1 : serve_stream((int)opened, (int)opened);
}

int agent_main(int argc, char **argv)
{
    uint64_t fd;
    sysret listener;
    if (argc != 2)
        return 2;
    if (ak_streq(argv[0], "--listen-fd"))
        return ak_parse_u64(argv[1], 10, &fd) && fd <= INT32_MAX ? agent_serve((int)fd, NULL) : 2;
    if (ak_streq(argv[0], "--stream"))
        return serve_stream_argument(argv[1]);
    if (!ak_streq(argv[0], "--listen"))
        return 2;
    listener = listener_open(argv[1]);
    return listener < 0 ? 1 : agent_serve((int)listener, NULL);
}
