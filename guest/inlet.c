/* The listeners inside. Nothing is accepted without an attach, nor beyond the number of tunnels: it waits in the listeners' queues. */
#include "inlet.h"

#include "descriptor.h"
#include "state.h"

#include <linux/eventpoll.h>

#define BACKLOG 1024
#define TAKEN_AT_ONCE 64
#define SO_ORIGINAL_DST 80 /* of both families' levels */

static sysret bind_inlet(const struct inlet *inlet, uint16_t port)
{
    union socket_address address;
    unsigned length = socket_loopback(&address, inlet->ipv6, port);
    sysret error;
    if (inlet->ipv6 && (error = socket_switch_on(inlet->fd, IPPROTO_IPV6, AK_IPV6_V6ONLY)) != 0)
        return error;
    if (!inlet->datagrams) {
        (void)socket_switch_on(inlet->fd, AK_SOL_SOCKET, AK_SO_REUSEADDR); /* connections of an agent before this one may linger */
        socket_bound_buffers(inlet->fd);
    }
    error = SYS(bind, inlet->fd, &address, length);
    return error || inlet->datagrams ? error : SYS(listen, inlet->fd, BACKLOG);
}

static sysret open_inlet(struct agent *agent, struct inlet inlet, uint16_t port)
{
    struct inlets *inlets = &agent->inlets;
    sysret error, fd = socket_open(inlet.ipv6, inlet.datagrams ? AK_SOCK_DGRAM : AK_SOCK_STREAM);
    if (fd < 0)
        return fd;
    inlet.fd = (int)fd;
    error = bind_inlet(&inlet, port);
    if (!error)
        error = agent_watch(agent, inlet.fd, SOURCE_INLET, inlets->count, EPOLLIN);
    if (error < 0) {
        ak_close(fd);
        return error;
    }
    inlet.readable = true;
    inlets->inlets[inlets->count++] = inlet;
    return 0;
}

/* On both addresses. A kernel without IPv6, or a namespace whose loopback has no ::1, has nobody either who would connect there. */
static sysret open_both(struct agent *agent, enum tunnel_kind kind, bool datagrams, uint16_t port)
{
    struct inlet inlet = {.kind = kind, .datagrams = datagrams};
    sysret error = port ? open_inlet(agent, inlet, port) : 0;
    if (error || !port)
        return error;
    inlet.ipv6 = true;
    error = open_inlet(agent, inlet, port);
    return error == -EADDRINUSE ? error : 0;
}

sysret inlets_open(struct agent *agent, const struct network_ports *ports)
{
    struct inlets *inlets = &agent->inlets;
    sysret error = open_both(agent, TUNNEL_PROXY, false, ports->proxy);
    if (!error)
        error = open_both(agent, TUNNEL_RESOLVER, false, ports->resolver);
    if (!error)
        error = open_both(agent, TUNNEL_RESOLVER, true, ports->resolver);
    if (!error)
        error = open_both(agent, TUNNEL_TRANSPARENT, false, ports->transparent);
    while (error && inlets->count)
        descriptor_close(&inlets->inlets[--inlets->count].fd);
    return error;
}

/* Where the workload wanted to go before the namespace's own rules turned it here; false if nobody knows. */
static bool find_destination(struct tunnel *t, bool ipv6)
{
    union socket_address address = {0};
    unsigned length = sizeof address;
    if (SYS(getsockopt, t->fd, ipv6 ? IPPROTO_IPV6 : IPPROTO_IP, SO_ORIGINAL_DST, &address, &length))
        return false;
    t->port = socket_port(address.v4.sin_port); /* at the same place in both families */
    if (ipv6) {
        memcpy(t->address, &address.v6.sin6_addr, sizeof t->address);
        return true;
    }
    t->address[10] = t->address[11] = 0xff;
    memcpy(t->address + 12, &address.v4.sin_addr, 4);
    return true;
}

/* False when there is nothing to accept, or no descriptor for it. */
static bool accept_one(struct agent *agent, struct inlet *inlet)
{
    struct tunnel *t;
    sysret fd = SYS(accept4, inlet->fd, NULL, NULL, O_CLOEXEC | O_NONBLOCK);
    if (fd == -EINTR || fd == -ECONNABORTED)
        return true;
    if (fd < 0) {
        inlet->readable = false;
        if (fd != -EAGAIN && !agent->retry_ms)
            agent->retry_ms = agent->now_ms + RETRY_MS;
        return false;
    }
    t = tunnels_add(&agent->tunnels, tunnels_new_id(&agent->tunnels), (int)fd);
    if (!t) {
        ak_close(fd);
        return false;
    }
    t->kind = (uint16_t)inlet->kind;
    t->tell = TELL_ACCEPTED;
    if (inlet->kind == TUNNEL_TRANSPARENT && !find_destination(t, inlet->ipv6))
        tunnel_drop(agent, t, true);
    else
        tunnel_begin(agent, t);
    return true;
}

static bool can_take(const struct agent *agent, const struct inlet *inlet)
{
    return inlet->readable && tunnel_has_room(agent) && (inlet->datagrams || agent->tunnels.count < agent->tunnels.most);
}

void inlets_serve(struct agent *agent)
{
    for (unsigned i = 0; i < agent->inlets.count; i++) {
        struct inlet *inlet = &agent->inlets.inlets[i];
        for (unsigned n = 0; n < TAKEN_AT_ONCE && can_take(agent, inlet); n++)
            if (!(inlet->datagrams ? query_take(agent, i) : accept_one(agent, inlet)))
                break;
    }
}

bool inlets_have_work(const struct agent *agent)
{
    for (unsigned i = 0; i < agent->inlets.count; i++)
        if (can_take(agent, &agent->inlets.inlets[i]))
            return true;
    return false;
}

void inlet_event(struct agent *agent, unsigned index)
{
    if (index < agent->inlets.count)
        agent->inlets.inlets[index].readable = true;
}

void inlets_retry(struct agent *agent)
{
    for (unsigned i = 0; i < agent->inlets.count; i++)
        agent->inlets.inlets[i].readable = true;
}

void inlets_reset(struct agent *agent)
{
    for (unsigned i = 0; i < QUERIES_MAX && agent->inlets.count; i++)
        agent->inlets.queries[i].id = 0;
}
