/* The connect builtin: standard input and output become a connection to a port or socket inside. */
#include "builtin.h"

#include "clock.h"
#include "connect.h"
#include "descriptor.h"

#include <linux/in.h>
#include <linux/in6.h>
#include <linux/poll.h>
#include <linux/un.h>

#ifndef AF_UNIX
#define AF_UNIX 1
#endif
#define AK_AF_INET 2
#define AK_AF_INET6 10
#define AK_SOCK_STREAM 1
#define AK_SHUT_WR 1
#define PIPE_BYTES 65536u

static sysret connect_to(int family, const void *address, unsigned length)
{
    sysret error, fd = SYS(socket, family, AK_SOCK_STREAM | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    do
        error = SYS(connect, fd, address, length);
    while (error == -EINTR);
    if (error)
        (void)SYS(close, fd);
    return error ? error : fd;
}

static uint16_t network_order(uint16_t port)
{
    return (uint16_t)(port >> 8 | port << 8);
}

sysret connect_loopback(uint16_t port)
{
    struct sockaddr_in v4 = {.sin_family = AK_AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AK_AF_INET6};
    sysret fd;
    memcpy(&v4.sin_addr, "\x7f\0\0\1", 4); /* 127.0.0.1 */
    v4.sin_port = v6.sin6_port = network_order(port);
    v6.sin6_addr.s6_addr[15] = 1; /* ::1 */
    fd = connect_to(AK_AF_INET, &v4, sizeof v4);
    if (fd == -ECONNREFUSED) {
        sysret second = connect_to(AK_AF_INET6, &v6, sizeof v6);
        return second >= 0 ? second : fd;
    }
    return fd;
}

static sysret connect_tcp(const char *text)
{
    uint64_t port;
    if (!ak_parse_u64(text, 10, &port) || port == 0 || port > 65535)
        return -EINVAL;
    return connect_loopback((uint16_t)port);
}

static sysret connect_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof address.sun_path)
        return -ENAMETOOLONG;
    memcpy(address.sun_path, path, n);
    return connect_to(AF_UNIX, &address, (unsigned)(offsetof(struct sockaddr_un, sun_path) + n + 1));
}

/* One direction: bytes read from `from` wait in `bytes` until `to` takes them. */
struct flow {
    int from, to;
    size_t start, end;
    bool at_end, closed; /* no more to read; the end was passed on */
    uint8_t bytes[PIPE_BYTES];
};

/* Moves what can be moved; 0 or errno. */
static int flow_move(struct flow *flow)
{
    sysret n = 0;
    if (flow->start == flow->end && !flow->at_end) {
        n = SYS(read, flow->from, flow->bytes, PIPE_BYTES);
        flow->start = 0;
        flow->end = n > 0 ? (size_t)n : 0;
        flow->at_end = n == 0 || (n < 0 && n != -EAGAIN && n != -EINTR);
    }
    if (flow->start < flow->end) {
        n = SYS(write, flow->to, flow->bytes + flow->start, flow->end - flow->start);
        if (n > 0)
            flow->start += (size_t)n;
        else if (n != -EAGAIN && n != -EINTR)
            return (int)-n;
    }
    return 0;
}

static bool flow_is_done(const struct flow *flow)
{
    return flow->at_end && flow->start == flow->end;
}

static struct pollfd flow_poll(const struct flow *flow)
{
    bool full = flow->start < flow->end;
    if (flow_is_done(flow))
        return (struct pollfd){.fd = -1};
    return (struct pollfd){.fd = full ? flow->to : flow->from, .events = full ? POLLOUT : POLLIN};
}

static int relay(int connection)
{
    static struct flow up, down;
    up.from = 0;
    up.to = down.from = connection;
    down.to = 1;
    while (!flow_is_done(&down)) {
        struct pollfd polls[2] = {flow_poll(&up), flow_poll(&down)};
        int error;
        (void)SYS(ppoll, polls, 2, NULL, NULL, 8);
        if (flow_move(&up)) /* the other side does not read any more; it may still have something to say */
            up.at_end = true, up.start = up.end;
        error = flow_move(&down);
        if (error)
            return error;
        if (flow_is_done(&up) && !up.closed) {
            up.closed = true;
            (void)SYS(shutdown, connection, AK_SHUT_WR);
        }
    }
    return 0;
}

int connect_join(int connection)
{
    /* Each direction must go on while the other one is full. */
    (void)descriptor_nonblocking(connection, true);
    (void)descriptor_nonblocking(0, true);
    (void)descriptor_nonblocking(1, true);
    return relay(connection);
}

int builtin_connect(char *const *argv)
{
    sysret fd = -EINVAL;
    if (ak_streq(argv[0], "tcp"))
        fd = connect_tcp(argv[1]);
    else if (ak_streq(argv[0], "unix"))
        fd = connect_unix(argv[1]);
    return fd < 0 ? (int)-fd : connect_join((int)fd);
}
