/* What the host says about tunnels and queries. What it says about one that is over is ignored: it can cross the end. */
#include "state.h"

#include "inlet.h"
#include "socket.h"

static void refuse(struct agent *agent, const struct frame *frame, unsigned error)
{
    struct builder b;
    uint8_t *memory = link_reserve(agent->current, 64);
    if (!memory)
        return;
    builder_begin(&b, memory, 64, FRAME_TUNNEL_CLOSED, 0, frame->id);
    builder_u32(&b, error);
    link_commit(agent->current, builder_end(&b, agent->current->tag));
}

static void open_tunnel(struct agent *agent, const struct frame *frame)
{
    struct tunnel *t;
    sysret fd = agent->configured ? socket_open(false, AK_SOCK_STREAM) : -EPERM;
    if (fd < 0) {
        refuse(agent, frame, (unsigned)-fd);
        return;
    }
    t = tunnels_add(&agent->tunnels, frame->id, (int)fd);
    if (t) {
        tunnel_connect(agent, t, ak_get_u16(frame->payload));
        return;
    }
    ak_close(fd);
    refuse(agent, frame, EAGAIN);
}

static void take(struct agent *agent, const struct frame *frame, struct tunnel *t)
{
    if (t->host_ended || !credit_take(&t->inflow, frame->length))
        tunnel_end(agent, t, EPROTO);
    else
        tunnel_take(agent, t, frame->payload, frame->length, frame->flags & 1);
}

static void add_credit(struct agent *agent, const struct frame *frame, struct tunnel *t)
{
    uint32_t more = ak_get_u32(frame->payload);
    if (more > CREDIT_AT_ONCE) {
        tunnel_end(agent, t, EPROTO);
        return;
    }
    t->credit += more;
    if (t->readable)
        tunnels_activate(&agent->tunnels, t);
}

static bool is_well_formed(struct agent *agent, const struct frame *frame)
{
    switch (frame->type) {
    case FRAME_TUNNEL_OPEN:
        return frame->length == 2 && ak_get_u16(frame->payload) && !(frame->id & TUNNEL_AGENTS) && !tunnels_find(&agent->tunnels, frame->id);
    case FRAME_TUNNEL_SEND: return frame->length <= MAX_OUTPUT && frame->flags <= 1 && (frame->length || frame->flags);
    case FRAME_ANSWER: return frame->length <= ANSWER_MAX;
    default: return frame->length == 4;
    }
}

/* Bytes that are refused would leave a hole in the stream. */
static void refuse_bad(struct agent *agent, const struct frame *frame, struct tunnel *t)
{
    reply_failed(agent, frame->id, EINVAL, STAGE_REQUEST, "tunnel");
    if (t && t->fd >= 0 && frame->type == FRAME_TUNNEL_SEND)
        tunnel_end(agent, t, EPROTO);
}

void handle_tunnel(struct agent *agent, const struct frame *frame)
{
    struct tunnel *t = tunnels_find(&agent->tunnels, frame->id);
    if (!is_well_formed(agent, frame))
        refuse_bad(agent, frame, t);
    else if (frame->type == FRAME_TUNNEL_OPEN)
        open_tunnel(agent, frame);
    else if (frame->type == FRAME_ANSWER)
        inlets_answer(agent, frame);
    else if (!t || t->fd < 0)
        return;
    else if (frame->type == FRAME_TUNNEL_SEND)
        take(agent, frame, t);
    else if (frame->type == FRAME_TUNNEL_CREDIT)
        add_credit(agent, frame, t);
    else
        tunnel_drop(agent, t, ak_get_u32(frame->payload) != 0);
}
