/* The links to hosts: accepting them, attaching the newest, and serving their frames. */
#include "state.h"

#include "descriptor.h"
#include "listener.h"

#include <linux/eventpoll.h>
#include <linux/prctl.h>

#define FRAMES_PER_TURN 64
#define UNCONFIGURED_MS 60000 /* nobody wants a sandbox that nobody configures */

void hosts_await(struct agent *agent)
{
    uint32_t patience = agent->configured ? agent->configuration.linger_ms : UNCONFIGURED_MS;
    agent->alone_until_ms = patience ? agent->now_ms + patience : 0;
}

static void detach(struct agent *agent)
{
    if (!agent->current)
        return;
    agent->current->attached = false;
    agent->current = NULL;
    tunnels_reset(agent);
    inlets_reset(agent);
    hosts_await(agent);
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

/* Without subreapers (gVisor before 2023) an orphan goes to PID 1, and nothing tells any more whose it was. */
static bool orphans_stay(void)
{
    int is_subreaper = 0;
    return SYS(prctl, PR_GET_CHILD_SUBREAPER, &is_subreaper, 0, 0, 0) == 0 && is_subreaper;
}

static uint32_t attach_state(const struct agent *agent)
{
    return (agent->configured ? ATTACH_CONFIGURED : 0) | (agent->can_switch_user ? ATTACH_SEPARATE_USER : 0) | (agent->is_init ? ATTACH_INIT : 0) |
           (orphans_stay() ? ATTACH_WHOLE_TREES : 0);
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
    if (accepted) {
        agent->current = link;
        agent->alone_until_ms = 0;
    }
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

/* The open link that came next after `order`, or NULL. */
static struct link *link_after(struct agent *agent, uint64_t order)
{
    struct link *next = NULL;
    for (unsigned i = 0; i < LINKS; i++) {
        struct link *link = &agent->links[i];
        if (link->in >= 0 && link->order > order && (!next || link->order < next->order))
            next = link;
    }
    return next;
}

/* In the order in which they came, so that of two that say HELLO at the same time the newer one wins. */
bool hosts_serve(struct agent *agent)
{
    struct link *link;
    bool more = false;
    for (uint64_t order = 0; (link = link_after(agent, order)) != NULL;) {
        order = link->order;
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
        if (link != agent->current && (!oldest || link->order < oldest->order))
            oldest = link;
    }
    link_close(oldest);
    return oldest;
}

void hosts_add(struct agent *agent, int in, int out, bool boundless)
{
    struct link *link = place_for_link(agent);
    unsigned index = (unsigned)(link - agent->links);
    if (!link_open(link, in, out, boundless))
        return;
    link->order = ++agent->link_order;
    (void)agent_watch(agent, in, SOURCE_LINK, index, out == in ? EPOLLIN | EPOLLOUT : EPOLLIN);
    if (out != in)
        (void)agent_watch(agent, out, SOURCE_LINK, index, EPOLLOUT);
}

void hosts_accept(struct agent *agent)
{
    sysret fd;
    while ((fd = listener_accept(agent->listen, agent->proc, agent->is_init)) >= 0 || fd == -EPERM)
        if (fd >= 0)
            hosts_add(agent, (int)fd, (int)fd, false);
    if (fd == -EAGAIN || fd == -EINTR || fd == -ECONNABORTED)
        return;
    /* No descriptor or memory is free: a level-triggered listener would turn the loop into a busy one. */
    (void)SYS(epoll_ctl, agent->epoll, EPOLL_CTL_DEL, agent->listen, NULL);
    agent->retry_ms = agent->now_ms + RETRY_MS;
}

void hosts_retry(struct agent *agent)
{
    agent->retry_ms = 0;
    inlets_retry(agent);
    if (agent->listen >= 0)
        (void)agent_watch(agent, agent->listen, SOURCE_LISTEN, 0, EPOLLIN);
    for (unsigned i = 0; i < LINKS; i++)
        if (agent->links[i].in >= 0 && agent->links[i].boundless)
            agent->links[i].readable = true;
}
