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
#include <linux/signalfd.h>
#include <linux/wait.h>

#define EVENTS 64
#define POLL_MS 20          /* where there is no signalfd */
#define LAST_ANSWER_MS 1000
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

static void read_signals(struct agent *agent)
{
    struct signalfd_siginfo info;
    while (agent->signals >= 0 && SYS(read, agent->signals, &info, sizeof info) == (sysret)sizeof info)
        /* To PID 1, a signal with a sender that is visible here comes from the workload: it may not end its own sandbox that way. */
        if (info.ssi_signo != SIGCHLD && !(agent->is_init && info.ssi_pid != 0))
            agent->ending = true;
    children_reap(agent);
}

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
        hosts_accept(agent);
    else if (source == SOURCE_SIGNALS)
        read_signals(agent);
    else if (source == SOURCE_LINK)
        take_link_event(agent, &agent->links[slot % LINKS], event->events);
    else if (source == SOURCE_TUNNEL)
        tunnel_event(agent, slot, event->events);
    else if (source == SOURCE_INLET)
        inlet_event(agent, slot);
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

/* Commands and tunnels share a part of the output buffer: who had the last of it lets the others go first. */
static bool step_all(struct agent *agent)
{
    bool tunnels_first = agent->tunnels_first;
    bool more = tunnels_first && tunnels_step(agent);
    more = step_active(agent) || more;
    return (!tunnels_first && tunnels_step(agent)) || more;
}

static void check_deadlines(struct agent *agent)
{
    if (agent->retry_ms && agent->now_ms >= agent->retry_ms)
        hosts_retry(agent);
    if (agent->sweeping && agent->now_ms >= agent->sweep_at)
        children_sweep(agent);
    if (agent->alone_until_ms && agent->now_ms >= agent->alone_until_ms)
        agent->ending = true;
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
    if (agent->alone_until_ms && (!next || agent->alone_until_ms < next))
        next = agent->alone_until_ms;
    if (agent->spare.due_ms && !agent->spare.pid && !agent->sweeping && (!next || agent->spare.due_ms < next))
        next = agent->spare.due_ms;
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
    agent->now_ms = monotonic_ms();
    hosts_await(agent);
    while (!agent->ending) {
        sysret n = SYS(epoll_pwait, agent->epoll, events, EVENTS, wait_ms(agent, more), NULL, 8);
        agent->now_ms = monotonic_ms();
        for (sysret i = 0; i < n; i++)
            take_event(agent, &events[i]);
        if (agent->signals < 0)
            children_reap(agent);
        check_deadlines(agent);
        more = hosts_serve(agent);
        more = step_all(agent) || more;
        if (!more)
            spare_keep(agent);
    }
}

/* The answer to SHUTDOWN should arrive, but a host that does not read must not keep the sandbox alive. */
static void flush_last(struct agent *agent)
{
    struct link *link = agent->current;
    uint64_t until = agent->now_ms + LAST_ANSWER_MS;
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

/* Moves a descriptor out of the way of 0-2. */
static int out_of_the_way(int fd)
{
    return fd < 3 ? (int)SYS(fcntl, fd, F_DUPFD_CLOEXEC, 3) : fd;
}

int agent_serve(int listen_fd, const struct agent_cgroups *cgroups)
{
    struct agent *agent = &the_agent;
    listen_fd = out_of_the_way(listen_fd);
    if (listen_fd < 0 || !agent_prepare(agent, cgroups))
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
    if (!agent_prepare(agent, NULL))
        return 1;
    stream_prepare(kept_in);
    if (kept_out != kept_in)
        stream_prepare(kept_out);
    hosts_add(agent, kept_in, kept_out, true);
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
    bool any_uid;
    if (argc != 2)
        return 2;
    if (ak_streq(argv[0], "--listen-fd"))
        return ak_parse_u64(argv[1], 10, &fd) && fd <= INT32_MAX ? agent_serve((int)fd, NULL) : 2;
    if (ak_streq(argv[0], "--stream"))
        return serve_stream_argument(argv[1]);
    any_uid = ak_streq(argv[0], "--listen-any");
    if (!any_uid && !ak_streq(argv[0], "--listen"))
        return 2;
    listener = listener_open(argv[1], any_uid);
    return listener < 0 ? 1 : agent_serve((int)listener, NULL);
}
