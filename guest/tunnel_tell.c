/* What the host is told of a tunnel. Frames are built where they are sent from; a connection's bytes are read to their place in one, and never copied. */
#include "state.h"

#define SMALL_FRAME 64u
#define WORTHWHILE 4096u /* less room than for so many bytes is none */

bool tunnel_has_room(const struct agent *agent)
{
    return agent->current && link_tunnel_room(agent->current) >= SMALL_FRAME + WORTHWHILE;
}

static void begin(struct agent *agent, struct builder *b, const struct tunnel *t, enum frame_type type)
{
    builder_begin(b, link_reserve(agent->current, SMALL_FRAME), SMALL_FRAME, (uint8_t)type, 0, t->id);
}

static void commit(struct agent *agent, struct builder *b)
{
    link_commit_tunnel(agent->current, builder_end(b, agent->current->tag));
}

static void tell_state(struct agent *agent, const struct tunnel *t)
{
    static const enum frame_type types[] = {[TELL_ACCEPTED] = FRAME_TUNNEL_ACCEPTED, [TELL_OPENED] = FRAME_TUNNEL_OPENED, [TELL_CLOSED] = FRAME_TUNNEL_CLOSED};
    struct builder b;
    begin(agent, &b, t, types[t->tell]);
    if (t->tell == TELL_ACCEPTED) {
        builder_u16(&b, t->kind);
        builder_u16(&b, t->port);
        builder_bytes(&b, t->address, sizeof t->address);
    }
    if (t->tell == TELL_CLOSED)
        builder_u32(&b, t->error);
    commit(agent, &b);
}

bool tunnel_tell(struct agent *agent, struct tunnel *t)
{
    struct builder b;
    if (t->tell && !tunnel_has_room(agent))
        return false;
    if (t->tell)
        tell_state(agent, t);
    t->tell = TELL_NOTHING;
    if (!t->grant)
        return true;
    if (!tunnel_has_room(agent))
        return false;
    begin(agent, &b, t, FRAME_TUNNEL_GRANT);
    builder_u32(&b, t->grant);
    commit(agent, &b);
    t->grant = 0;
    return true;
}

static size_t readable_bytes(const struct agent *agent, const struct tunnel *t)
{
    size_t n = link_tunnel_room(agent->current) - FRAME_HEADER - FRAME_TAG;
    if (n > MAX_OUTPUT)
        n = MAX_OUTPUT;
    return n < t->credit ? n : (size_t)t->credit;
}

sysret tunnel_tell_data(struct agent *agent, struct tunnel *t)
{
    struct link *link = agent->current;
    struct builder b;
    uint8_t *memory;
    size_t most;
    sysret n;
    if (!tunnel_has_room(agent))
        return -EAGAIN;
    most = readable_bytes(agent, t);
    memory = link_reserve(link, FRAME_HEADER + most + FRAME_TAG);
    n = SYS(read, t->fd, memory + FRAME_HEADER, most);
    if (n < 0)
        return n;
    builder_begin(&b, memory, FRAME_HEADER, FRAME_TUNNEL_DATA, n == 0, t->id);
    ak_put_u32(memory, (uint32_t)n);
    ak_put_u32(memory + FRAME_HEADER + n, link->tag);
    link_commit_tunnel(link, FRAME_HEADER + (size_t)n + FRAME_TAG);
    agent->tunnels_first = false;
    t->credit -= (uint64_t)n;
    return n;
}
