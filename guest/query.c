/* DNS by UDP: each datagram is a QUERY, and the ANSWER with its id goes back to where it came from. */
#include "state.h"

#define STALE_MS 30000u /* who asked has given up by then, and asks again */
#define MSG_TRUNC 0x20

static struct query *free_place(struct agent *agent)
{
    for (unsigned i = 0; i < QUERIES_MAX; i++) {
        struct query *query = &agent->inlets.queries[i];
        if (!query->id || agent->now_ms - query->at_ms > STALE_MS)
            return query;
    }
    return NULL;
}

static void remember(struct agent *agent, struct query *query, unsigned inlet, const union socket_address *from)
{
    query->id = tunnels_new_id(&agent->tunnels);
    query->at_ms = agent->now_ms;
    query->inlet = inlet;
    query->from = *from;
}

bool query_take(struct agent *agent, unsigned inlet)
{
    struct link *link = agent->current;
    uint8_t *memory = link_reserve(link, FRAME_HEADER + QUERY_MAX + FRAME_TAG);
    union socket_address from = {0};
    unsigned length = sizeof from;
    struct query *query;
    struct builder b;
    sysret n = SYS(recvfrom, agent->inlets.inlets[inlet].fd, memory + FRAME_HEADER, QUERY_MAX, MSG_TRUNC, &from, &length);
    if (n == -EAGAIN)
        agent->inlets.inlets[inlet].readable = false;
    if (n < 0)
        return n != -EAGAIN;
    query = n >= (sysret)QUERY_MIN && n <= (sysret)QUERY_MAX ? free_place(agent) : NULL;
    if (!query)
        return true;
    remember(agent, query, inlet, &from);
    builder_begin(&b, memory, FRAME_HEADER, FRAME_QUERY, 0, query->id);
    ak_put_u32(memory, (uint32_t)n);
    ak_put_u32(memory + FRAME_HEADER + n, link->tag);
    link_commit_tunnel(link, FRAME_HEADER + (size_t)n + FRAME_TAG);
    return true;
}

void inlets_answer(struct agent *agent, const struct frame *frame)
{
    for (unsigned i = 0; i < QUERIES_MAX; i++) {
        struct query *query = &agent->inlets.queries[i];
        const struct inlet *inlet = &agent->inlets.inlets[query->inlet];
        if (query->id != frame->id)
            continue;
        query->id = 0;
        if (frame->length) /* a datagram that is lost is asked for again */
            (void)SYS(sendto, inlet->fd, frame->payload, frame->length, 0, &query->from, inlet->ipv6 ? sizeof query->from.v6 : sizeof query->from.v4);
        return;
    }
}
