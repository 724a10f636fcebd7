/* What the attached host is told about a process, in this order: started or resumed, input, output, end. */
#include "state.h"

#define SMALL_FRAME 128u
#define FRAMES_PER_TURN 4u /* then another process has its turn */

static bool commit(struct agent *agent, struct builder *b)
{
    size_t n = builder_end(b, agent->current->tag);
    if (n)
        link_commit(agent->current, n);
    return n != 0;
}

static void begin(struct agent *agent, struct builder *b, const struct process *p, enum frame_type type, uint8_t flags)
{
    builder_begin(b, link_reserve(agent->current, SMALL_FRAME), SMALL_FRAME, (uint8_t)type, flags, p->id);
}

static void tell_started(struct agent *agent, struct process *p)
{
    struct builder b;
    begin(agent, &b, p, FRAME_STARTED, 0);
    builder_u32(&b, (uint32_t)p->main);
    if (commit(agent, &b))
        p->owed &= (uint8_t)~OWE_STARTED;
}

static void tell_resumed(struct agent *agent, struct process *p)
{
    struct builder b;
    begin(agent, &b, p, FRAME_RESUMED, 0);
    builder_u32(&b, p->state == PROCESS_ENDED);
    builder_u32(&b, (uint32_t)p->main);
    builder_u64(&b, p->outlets[0].ring.begin);
    builder_u64(&b, p->outlets[1].ring.begin);
    builder_u64(&b, p->intake.ring.begin);
    builder_u64(&b, p->flags & START_STDIN ? intake_limit(&p->intake) : 0);
    if (commit(agent, &b))
        p->owed &= (uint8_t)~OWE_RESUMED;
}

static void tell_stdin(struct agent *agent, struct process *p)
{
    struct builder b;
    begin(agent, &b, p, FRAME_STDIN_CONSUMED, p->intake.closed);
    builder_u64(&b, p->intake.ring.begin);
    builder_u64(&b, intake_limit(&p->intake));
    if (commit(agent, &b)) {
        p->owed &= (uint8_t)~OWE_STDIN;
        p->intake.announced = p->intake.ring.begin;
    }
}

static void tell_exited(struct agent *agent, struct process *p)
{
    struct builder b;
    uint32_t status = p->end.status;
    bool signalled = (status & 0x7f) != 0;
    begin(agent, &b, p, FRAME_EXITED, 0);
    builder_u32(&b, signalled);
    builder_u32(&b, signalled ? status & 0x7f : status >> 8 & 0xff);
    builder_u32(&b, p->cause);
    builder_u32(&b, (uint32_t)p->survivors | (uint32_t)p->output_lost << 1);
    builder_u64(&b, p->outlets[0].stop);
    builder_u64(&b, p->outlets[1].stop);
    builder_u64(&b, p->wall_us);
    builder_u64(&b, p->end.user_us);
    builder_u64(&b, p->end.system_us);
    builder_u64(&b, p->end.max_rss_bytes);
    if (commit(agent, &b)) {
        p->exit_told = true;
        p->subscribed = false;
    }
}

static uint64_t sendable_end(const struct process *p, const struct outlet *outlet)
{
    uint64_t end = outlet->ring.end;
    if (p->stops_known && outlet->until < end)
        end = outlet->until;
    return end;
}

/* Where to go on: bytes that were dropped for newer output, or that the host has consumed on an earlier attach, are not sent. */
static uint64_t next_offset(const struct outlet *outlet)
{
    return outlet->sent < outlet->ring.begin ? outlet->ring.begin : outlet->sent;
}

static bool has_output(const struct process *p, const struct outlet *outlet)
{
    return outlet->ring.memory && next_offset(outlet) < sendable_end(p, outlet);
}

/* Sends one OUTPUT frame straight from the ring; false when the stream is lost. */
static bool tell_output(struct agent *agent, struct process *p, unsigned index)
{
    struct outlet *outlet = &p->outlets[index];
    uint8_t header[FRAME_HEADER + 8];
    struct iovec parts[4];
    struct builder b;
    size_t n;
    unsigned count;
    outlet->sent = next_offset(outlet);
    n = (size_t)(sendable_end(p, outlet) - outlet->sent);
    n = n < MAX_OUTPUT ? n : MAX_OUTPUT;
    builder_begin(&b, header, sizeof header, FRAME_OUTPUT, (uint8_t)(index + 1), p->id);
    builder_u64(&b, outlet->sent);
    ak_put_u32(header, (uint32_t)(8 + n));
    parts[0] = (struct iovec){header, sizeof header};
    count = 1 + ring_held_parts(&outlet->ring, outlet->sent, n, parts + 1);
    parts[count++] = (struct iovec){&agent->current->tag, FRAME_TAG};
    outlet->sent += n;
    if (outlet->sent > outlet->sent_most)
        outlet->sent_most = outlet->sent;
    agent->tunnels_first = true;
    return link_send(agent->current, parts, count);
}

static void tell_outputs(struct agent *agent, struct process *p)
{
    for (unsigned turn = 0; turn < FRAMES_PER_TURN; turn++)
        for (unsigned i = 0; i < 2; i++)
            if (has_output(p, &p->outlets[i]) && link_takes_output(agent->current) && !tell_output(agent, p, i)) {
                agent_drop(agent, agent->current);
                return;
            }
}

static bool is_all_told(const struct process *p)
{
    for (unsigned i = 0; i < 2; i++) {
        const struct outlet *outlet = &p->outlets[i];
        uint64_t goal = outlet->until > outlet->stop ? outlet->until : outlet->stop;
        if (outlet->sent < goal && outlet->ring.begin < goal)
            return false;
    }
    return true;
}

static bool has_room(const struct agent *agent, const struct process *p)
{
    return agent->current && p->subscribed && link_room(agent->current) >= MAX_FRAME;
}

void deliver(struct agent *agent, struct process *p)
{
    if (!has_room(agent, p) || p->state == PROCESS_STARTING)
        return;
    if (p->state == PROCESS_FAILED) {
        reply_failed(agent, p->id, p->failure_errno, p->failure_stage, (const char *)p->command);
        p->subscribed = false;
        p->owed = 0;
    }
    if (p->owed & OWE_STARTED)
        tell_started(agent, p);
    if (p->owed & OWE_RESUMED)
        tell_resumed(agent, p);
    if (p->owed & OWE_STDIN)
        tell_stdin(agent, p);
    if (!link_flush(agent->current)) {
        agent_drop(agent, agent->current);
        return;
    }
    tell_outputs(agent, p);
    if (has_room(agent, p) && p->state == PROCESS_ENDED && is_all_told(p)) {
        tell_exited(agent, p);
        if (!link_flush(agent->current))
            agent_drop(agent, agent->current);
    }
}

bool deliver_has_work(const struct agent *agent, const struct process *p)
{
    if (!has_room(agent, p) || p->state == PROCESS_STARTING || !agent->current->writable)
        return false;
    if (p->owed || p->state == PROCESS_FAILED || (p->state == PROCESS_ENDED && is_all_told(p)))
        return true;
    return link_takes_output(agent->current) && (has_output(p, &p->outlets[0]) || has_output(p, &p->outlets[1]));
}
