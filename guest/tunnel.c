/* The life of a tunnel: connected, bytes both ways, the end of each direction, the end of all. */
#include "state.h"

#include "descriptor.h"
#include "inlet.h"
#include "socket.h"

#include <linux/eventpoll.h>

#define PARTS 32u /* blocks passed on in one turn */

void tunnel_drop(struct agent *agent, struct tunnel *t, bool reset)
{
    if (reset && t->fd >= 0)
        socket_will_reset(t->fd);
    descriptor_close(&t->fd);
    tunnels_remove(&agent->tunnels, t);
}

void tunnel_end(struct agent *agent, struct tunnel *t, unsigned error)
{
    if (t->tell == TELL_ACCEPTED) {
        tunnel_drop(agent, t, true);
        return;
    }
    if (error && t->fd >= 0)
        socket_will_reset(t->fd);
    descriptor_close(&t->fd);
    store_drop(&agent->tunnels.store, &t->held, t->held.size);
    t->error = error;
    t->grant = 0;
    t->tell = TELL_CLOSED;
    tunnels_activate(&agent->tunnels, t);
}

/* Again is fine. */
static bool watch(const struct agent *agent, const struct tunnel *t)
{
    sysret error = agent_watch(agent, t->fd, SOURCE_TUNNEL, tunnels_key(t), EPOLLIN | EPOLLOUT | EPOLLRDHUP);
    return error >= 0 || error == -EEXIST;
}

void tunnel_begin(struct agent *agent, struct tunnel *t)
{
    socket_undelayed(t->fd);
    t->readable = t->writable = true;
    tunnels_activate(&agent->tunnels, t);
    if (!watch(agent, t))
        tunnel_end(agent, t, ENOMEM);
}

/* A connection that nobody listens for may meet itself, when its own port happens to be the one that it asks for. */
static bool is_own_reflection(const struct tunnel *t)
{
    union socket_address own = {0};
    unsigned length = sizeof own;
    /* The port stands at the same place in both families. */
    return SYS(getsockname, t->fd, &own, &length) == 0 && own.v4.sin_port == socket_port(t->port);
}

/* connect(2), also for what it began: 0, -EINPROGRESS or -EALREADY, -errno. */
static sysret try_connect(const struct tunnel *t)
{
    union socket_address address;
    unsigned length = socket_loopback(&address, t->ipv6, t->port);
    sysret error = SYS(connect, t->fd, &address, length);
    if (error == -EISCONN)
        error = 0;
    return error == 0 && is_own_reflection(t) ? -ECONNREFUSED : error;
}

static void go_on_connecting(struct agent *agent, struct tunnel *t);

/* Nobody listens on 127.0.0.1: a server may listen on ::1 alone. */
static void try_ipv6(struct agent *agent, struct tunnel *t)
{
    sysret fd = socket_open(true, AK_SOCK_STREAM);
    t->ipv6 = true;
    descriptor_close(&t->fd);
    if (fd < 0) {
        tunnel_end(agent, t, ECONNREFUSED);
        return;
    }
    t->fd = (int)fd;
    go_on_connecting(agent, t);
}

static void go_on_connecting(struct agent *agent, struct tunnel *t)
{
    sysret error = try_connect(t);
    if (error == -EINPROGRESS) {
        if (!watch(agent, t))
            tunnel_end(agent, t, ENOMEM);
    } else if (error == -ECONNREFUSED && !t->ipv6) {
        try_ipv6(agent, t);
    } else if (error == 0) {
        t->connecting = false;
        t->port = 0;
        t->tell = TELL_OPENED;
        socket_bound_buffers(t->fd);
        tunnel_begin(agent, t);
    } else if (error != -EALREADY && error != -EINTR) {
        tunnel_end(agent, t, t->ipv6 ? ECONNREFUSED : (unsigned)-error);
    }
}

void tunnel_connect(struct agent *agent, struct tunnel *t, uint16_t port)
{
    t->connecting = true;
    t->port = port;
    go_on_connecting(agent, t);
}

/* Bytes went on into the sandbox: more may come. */
static void give_credit(struct agent *agent, struct tunnel *t)
{
    if (!t->host_ended)
        t->grant += credit_grant(&agent->tunnels.pool, &t->inflow, t->held.size);
}

/* Passes held bytes on, and the end behind them; false when the tunnel is over. */
static bool pass_on(struct agent *agent, struct tunnel *t)
{
    struct iovec parts[PARTS];
    if (t->held.size && t->writable) {
        sysret n = SYS(writev, t->fd, parts, store_parts(&agent->tunnels.store, &t->held, parts, PARTS));
        if (n == -EAGAIN) {
            t->writable = false;
        } else if (n < 0 && n != -EINTR) {
            tunnel_end(agent, t, (unsigned)-n);
            return false;
        } else if (n > 0) {
            store_drop(&agent->tunnels.store, &t->held, (size_t)n);
            give_credit(agent, t);
        }
    }
    if (t->host_ended && !t->shut_down && !t->held.size) {
        t->shut_down = true;
        (void)SYS(shutdown, t->fd, AK_SHUT_WR);
    }
    return true;
}

/* Without waiting bytes they go straight from the link's buffer to the connection. */
static size_t pass_at_once(struct agent *agent, struct tunnel *t, const uint8_t *bytes, size_t n)
{
    sysret passed;
    if (t->held.size || !t->writable || t->connecting)
        return 0;
    passed = SYS(write, t->fd, bytes, n);
    if (passed == -EAGAIN)
        t->writable = false;
    if (passed > 0)
        give_credit(agent, t);
    return passed > 0 ? (size_t)passed : 0; /* any other error comes again in the tunnel's turn */
}

void tunnel_take(struct agent *agent, struct tunnel *t, const uint8_t *bytes, size_t n, bool end)
{
    size_t passed = n ? pass_at_once(agent, t, bytes, n) : 0;
    t->host_ended = end;
    if (!store_append(&agent->tunnels.store, &t->held, bytes + passed, n - passed))
        tunnel_end(agent, t, ENOMEM);
    else if (t->grant || t->held.size || end)
        tunnels_activate(&agent->tunnels, t);
}

/* One frame of what the workload sent; false when the tunnel is over. */
static bool take_in(struct agent *agent, struct tunnel *t)
{
    sysret n;
    if (t->workload_ended || !t->readable || !t->credit || !tunnel_has_room(agent))
        return true;
    n = tunnel_tell_data(agent, t);
    if (n == 0)
        t->workload_ended = true;
    else if (n == -EAGAIN)
        t->readable = false;
    else if (n < 0 && n != -EINTR) {
        tunnel_end(agent, t, (unsigned)-n);
        return false;
    }
    return true;
}

static bool has_work(const struct tunnel *t)
{
    return t->grant || (t->held.size && t->writable) || (t->readable && t->credit && !t->workload_ended);
}

static void take_turn(struct agent *agent, struct tunnel *t)
{
    if (t->connecting && t->fd >= 0) {
        go_on_connecting(agent, t);
        return;
    }
    if (!tunnel_tell(agent, t)) {
        tunnels_activate(&agent->tunnels, t);
        return;
    }
    if (t->fd < 0) {
        tunnel_drop(agent, t, false);
        return;
    }
    if (!pass_on(agent, t) || !take_in(agent, t))
        return;
    if (t->workload_ended && t->shut_down)
        tunnel_drop(agent, t, false);
    else if (has_work(t))
        tunnels_activate(&agent->tunnels, t);
}

void tunnel_event(struct agent *agent, unsigned key, uint32_t events)
{
    struct tunnel *t = tunnels_by_key(&agent->tunnels, key);
    if (!t || t->fd < 0)
        return;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        t->readable = true;
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
        t->writable = true;
    if (t->connecting || has_work(t))
        tunnels_activate(&agent->tunnels, t);
}

bool tunnels_step(struct agent *agent)
{
    struct tunnels *tunnels = &agent->tunnels;
    const struct tunnel *last;
    struct tunnel *t;
    inlets_serve(agent);
    last = tunnels->active_last;
    while (tunnel_has_room(agent) && (t = tunnels_next(tunnels)) != NULL) {
        bool is_last = t == last;
        take_turn(agent, t);
        if (is_last)
            break;
    }
    if (agent->current && !link_flush(agent->current))
        agent_drop(agent, agent->current);
    return tunnel_has_room(agent) && (tunnels->active_first || inlets_have_work(agent));
}

void tunnels_reset(struct agent *agent)
{
    struct tunnels *tunnels = &agent->tunnels;
    for (unsigned i = 0; i < TUNNELS_MAX && tunnels->count; i++)
        if (tunnels->slots[i].id)
            tunnel_drop(agent, &tunnels->slots[i], true);
}
