/*
 * Joins a stream without connection boundaries to connections (docs/guest-protocol.md, section 1).
 *
 * When a connection ends, or another one takes its place, the agent gets as many zero bytes as the longest frame has: they complete a frame that
 * was cut, are none themselves, and so end the attach. What the agent says while nobody listens belongs to an attach that is over.
 */
#include "keeper.h"

#include "clock.h"
#include "descriptor.h"
#include "frame.h"

#include <linux/poll.h>
#include <linux/signalfd.h>
#include <linux/wait.h>

#define CHUNK 65536u
#define LAST_ROUNDS 10
#define LAST_ROUND_NS 100000000
#define AK_MSG_NOSIGNAL 0x4000

/* What was read and not yet written. */
struct lane {
    size_t start, end;
    uint8_t bytes[CHUNK];
};

struct keeper {
    int listener, stream, host, signals, program;
    size_t padding; /* zero bytes that the agent gets before it hears the next host */
    struct lane to_agent, to_host;
};

static const uint8_t zeros[4096];

static bool is_empty(const struct lane *lane)
{
    return lane->start == lane->end;
}

/* Reads once; false when there will be nothing more. */
static bool lane_fill(struct lane *lane, int fd)
{
    sysret n = SYS(read, fd, lane->bytes, sizeof lane->bytes);
    if (n == -EAGAIN || n == -EINTR)
        return true;
    lane->start = 0;
    lane->end = n > 0 ? (size_t)n : 0;
    return n > 0;
}

/* Returns how many bytes the socket took: perhaps 0, or -errno when nobody will take any more. */
static sysret offer(int fd, const uint8_t *bytes, size_t n)
{
    sysret sent = SYS(sendto, fd, bytes, n, AK_MSG_NOSIGNAL, NULL, 0);
    return sent == -EAGAIN || sent == -EINTR ? 0 : sent;
}

/* False when nobody will take what is left. */
static bool lane_flush(struct lane *lane, int fd)
{
    sysret sent = 1;
    while (sent > 0 && !is_empty(lane)) {
        sent = offer(fd, lane->bytes + lane->start, lane->end - lane->start);
        lane->start += sent > 0 ? (size_t)sent : 0;
    }
    return sent >= 0;
}

static void lose_host(struct keeper *keeper)
{
    descriptor_close(&keeper->host);
    keeper->to_host.start = keeper->to_host.end = 0;
    keeper->padding = MAX_FRAME;
}

static void lose_stream(struct keeper *keeper)
{
    descriptor_close(&keeper->stream);
    keeper->to_agent.start = keeper->to_agent.end = keeper->padding = 0;
    lose_host(keeper);
}

static void accept_host(struct keeper *keeper)
{
    sysret fd = SYS(accept4, keeper->listener, NULL, NULL, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return;
    if (keeper->host >= 0)
        lose_host(keeper);
    keeper->host = (int)fd;
}

static bool hears_host(const struct keeper *keeper)
{
    return is_empty(&keeper->to_agent) && !keeper->padding && keeper->stream >= 0;
}

/* What waits for the agent, in its order: the end of the last host, the zeros. */
static void tell_agent(struct keeper *keeper)
{
    sysret sent = lane_flush(&keeper->to_agent, keeper->stream) ? 1 : -EPIPE;
    while (sent > 0 && keeper->padding && is_empty(&keeper->to_agent)) {
        sent = offer(keeper->stream, zeros, keeper->padding < sizeof zeros ? keeper->padding : sizeof zeros);
        keeper->padding -= sent > 0 ? (size_t)sent : 0;
    }
    if (sent < 0)
        lose_stream(keeper);
}

static void hear_host(struct keeper *keeper)
{
    if (!lane_fill(&keeper->to_agent, keeper->host))
        lose_host(keeper);
    tell_agent(keeper);
}

static void tell_host(struct keeper *keeper)
{
    if (keeper->host < 0)
        keeper->to_host.start = keeper->to_host.end = 0;
    else if (!lane_flush(&keeper->to_host, keeper->host))
        lose_host(keeper);
}

static void hear_agent(struct keeper *keeper)
{
    if (lane_fill(&keeper->to_host, keeper->stream))
        tell_host(keeper);
    else
        lose_stream(keeper);
}

/* What the program said before it ended; a host that does not take it goes without. */
static void tell_last(struct keeper *keeper)
{
    struct lane *lane = &keeper->to_host;
    for (unsigned round = 0; round < LAST_ROUNDS && keeper->host >= 0 && keeper->stream >= 0;) {
        struct pollfd poll = {.fd = keeper->host, .events = POLLOUT};
        struct __kernel_timespec timeout = {.tv_nsec = LAST_ROUND_NS};
        if (is_empty(lane) && (!lane_fill(lane, keeper->stream) || is_empty(lane)))
            return;
        if (!lane_flush(lane, keeper->host))
            return;
        if (!is_empty(lane) && SYS(ppoll, &poll, 1, &timeout, NULL, 8) <= 0)
            round++;
    }
}

/* Its own end is that of everything in the sandbox: it is PID 1 of their namespace. */
static void reap(struct keeper *keeper)
{
    struct signalfd_siginfo ignored;
    sysret pid;
    int status;
    (void)SYS(read, keeper->signals, &ignored, sizeof ignored);
    while ((pid = SYS(wait4, -1, &status, WNOHANG | __WALL, NULL)) > 0)
        if (pid == keeper->program) {
            tell_last(keeper);
            ak_exit(status & 0x7f ? 128 + (status & 0x7f) : status >> 8 & 0xff);
        }
}

/* A descriptor of which nothing is wanted is not polled: that it has hung up would be told again and again. */
static struct pollfd wanted(int fd, bool in, bool out)
{
    short events = (short)((in ? POLLIN : 0) | (out ? POLLOUT : 0));
    return (struct pollfd){.fd = events ? fd : -1, .events = events};
}

static void serve_once(struct keeper *keeper)
{
    struct pollfd polls[] = {
        wanted(keeper->signals, true, false),
        wanted(keeper->listener, keeper->stream >= 0, false),
        wanted(keeper->host, hears_host(keeper), !is_empty(&keeper->to_host)),
        wanted(keeper->stream, is_empty(&keeper->to_host), !is_empty(&keeper->to_agent) || keeper->padding),
    };
    if (SYS(ppoll, polls, sizeof polls / sizeof *polls, NULL, NULL, 8) <= 0)
        return;
    if (polls[0].revents)
        reap(keeper);
    if (polls[3].revents & POLLOUT)
        tell_agent(keeper);
    if (polls[3].revents & (POLLIN | POLLHUP | POLLERR) && keeper->stream >= 0 && is_empty(&keeper->to_host))
        hear_agent(keeper);
    if (polls[2].revents & POLLOUT && keeper->host >= 0)
        tell_host(keeper);
    if (polls[2].revents & (POLLIN | POLLHUP | POLLERR) && keeper->host >= 0 && hears_host(keeper))
        hear_host(keeper);
    if (polls[1].revents)
        accept_host(keeper);
}

_Noreturn void keeper_serve(int listener, int stream, int program)
{
    static struct keeper keeper;
    uint64_t child_ends = 1ull << (SIGCHLD - 1);
    keeper.listener = listener;
    keeper.stream = stream;
    keeper.program = program;
    keeper.host = -1;
    (void)descriptor_nonblocking(listener, true);
    (void)descriptor_nonblocking(stream, true);
    (void)SYS(rt_sigprocmask, SIG_BLOCK, &child_ends, NULL, 8);
    keeper.signals = (int)SYS(signalfd4, -1, &child_ends, sizeof child_ends, O_CLOEXEC | O_NONBLOCK);
    if (keeper.signals < 0)
        ak_exit(1);
    reap(&keeper); /* it may have ended before it was listened for */
    for (;;)
        serve_once(&keeper);
}
