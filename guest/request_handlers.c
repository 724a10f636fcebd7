/* What each frame of the host does. A bad payload is answered and changes nothing. */
#include "state.h"

#include "clock.h"
#include "terminal.h"

#include <linux/signal.h>

#define PING_MAX 64u
#define SIGNAL_MAX 64u
#define TEXT_MAX 200u

static const char *const stage_texts[] = {
    "bad request",
    "the process could not be started",
    "the process could not join its cgroup",
    "a resource limit could not be set",
    "the user could not be changed",
    "the working directory could not be entered",
    "the terminal could not be opened",
    "the seccomp filter could not be installed",
    "the program could not be executed",
};

static void reply_commit(struct agent *agent, struct builder *b)
{
    link_commit(agent->current, builder_end(b, agent->current->tag));
}

void reply_done(struct agent *agent, uint64_t id)
{
    struct builder b;
    uint8_t *memory = link_reserve(agent->current, 64);
    if (!memory)
        return;
    builder_begin(&b, memory, 64, FRAME_REPLY, 0, id);
    reply_commit(agent, &b);
}

/* The text is for people: what is not ASCII in it (it may be cut or not UTF-8) is shown as a question mark. */
void reply_failed(struct agent *agent, uint64_t id, unsigned error, enum stage stage, const char *text)
{
    struct builder b;
    char clean[TEXT_MAX];
    size_t n = 0;
    uint8_t *memory = link_reserve(agent->current, 256);
    if (!memory)
        return;
    for (const char *at = stage_texts[stage <= STAGE_EXEC ? stage : 0]; *at; at++)
        clean[n++] = *at;
    for (const char *separator = *text ? ": " : ""; *separator; separator++)
        clean[n++] = *separator;
    for (; *text && n < TEXT_MAX; text++)
        clean[n++] = *text >= ' ' && *text <= '~' ? *text : '?';
    builder_begin(&b, memory, 256, FRAME_FAILED, 0, id);
    builder_u32(&b, error);
    builder_u32(&b, stage);
    builder_bytes(&b, clean, n);
    reply_commit(agent, &b);
}

static void reply_invalid(struct agent *agent, const struct frame *frame, const char *text)
{
    reply_failed(agent, frame->id, EINVAL, STAGE_REQUEST, text);
}

static void reply_result(struct agent *agent, const struct frame *frame, unsigned error, const char *text)
{
    if (error)
        reply_failed(agent, frame->id, error, STAGE_REQUEST, text);
    else
        reply_done(agent, frame->id);
}

/* A sandbox made in store lingers until somebody gets it; all else that processes were promised stays. */
static bool is_known_configuration(struct agent *agent)
{
    uint32_t linger_ms = agent->candidate.linger_ms;
    agent->candidate.linger_ms = agent->configuration.linger_ms;
    bool same = memcmp(&agent->candidate, &agent->configuration, sizeof agent->configuration) == 0;
    agent->candidate.linger_ms = linger_ms;
    return same;
}

static void handle_configure(struct agent *agent, const struct frame *frame)
{
    int error = configuration_parse(&agent->candidate, frame->payload, frame->length);
    if (!error && agent->configured && !is_known_configuration(agent))
        error = -EEXIST;
    if (!error && !agent->configured)
        error = (int)inlets_open(agent, &agent->candidate.network);
    if (!error) {
        memcpy(&agent->configuration, &agent->candidate, sizeof agent->configuration);
        agent->configured = true;
        spare_configured(agent);
    }
    reply_result(agent, frame, (unsigned)-error, "configure");
}

/* The host says START again when it does not know whether it was heard. */
static void start_again(struct agent *agent, struct process *p)
{
    process_subscribe(p, 0, 0);
    p->owed = OWE_STARTED | (p->flags & START_STDIN ? OWE_STDIN : 0);
    process_activate(agent, p);
}

static void handle_start(struct agent *agent, const struct frame *frame)
{
    struct process *known = table_find(&agent->table, frame->id);
    enum stage stage = STAGE_REQUEST;
    sysret error;
    if (known) {
        start_again(agent, known);
        return;
    }
    error = agent->configured ? start_request_parse(&agent->request, frame->payload, frame->length) : -EPERM;
    if (!error)
        error = process_start(agent, frame, &agent->request, &stage);
    if (error)
        reply_failed(agent, frame->id, (unsigned)-error, stage, "start");
}

static void handle_stdin(struct agent *agent, const struct frame *frame)
{
    struct process *p = table_find(&agent->table, frame->id);
    if (frame->length < 8 || frame->flags > 1) {
        reply_invalid(agent, frame, "stdin");
        return;
    }
    if (!p || process_is_over(p))
        return; /* it ended meanwhile */
    if (!(p->flags & START_STDIN)
        || intake_offer(&p->intake, ak_get_u64(frame->payload), frame->payload + 8, frame->length - 8, frame->flags & 1)) {
        reply_invalid(agent, frame, "stdin offset");
        return;
    }
    process_activate(agent, p);
}

static void handle_consumed(struct agent *agent, const struct frame *frame)
{
    struct process *p = table_find(&agent->table, frame->id);
    if (frame->length != 8 || frame->flags < 1 || frame->flags > 2) {
        reply_invalid(agent, frame, "consumed");
        return;
    }
    if (!p || p->state == PROCESS_FAILED)
        return;
    if (!ring_consume(&p->outlets[frame->flags - 1].ring, ak_get_u64(frame->payload))) {
        reply_invalid(agent, frame, "consumed offset");
        return;
    }
    process_activate(agent, p);
}

/* The supervisor carries it out, since only it knows that the pid is still the process's; its note brings the answer. */
static void order_signal(struct agent *agent, const struct frame *frame)
{
    struct process *p = table_find(&agent->table, ak_get_u64(frame->payload));
    struct order order = {
        .kind = ORDER_SIGNAL,
        .signal = ak_get_u32(frame->payload + 8),
        .whole_tree = ak_get_u32(frame->payload + 12),
        .id = frame->id,
    };
    sysret error = -ENOENT;
    if (p)
        error = process_is_over(p) || p->released ? -ESRCH : process_order(p, &order);
    results_add(&agent->results, frame->id, ak_get_u64(frame->payload), error ? (int)-error : RESULT_PENDING);
    if (error)
        reply_result(agent, frame, (unsigned)-error, "signal");
}

static void handle_signal(struct agent *agent, const struct frame *frame)
{
    struct result *known = results_find(&agent->results, frame->id);
    uint32_t number, scope;
    if (known) {
        if (known->error != RESULT_PENDING)
            reply_result(agent, frame, (unsigned)known->error, "signal");
        return;
    }
    number = frame->length == 16 ? ak_get_u32(frame->payload + 8) : 0;
    scope = frame->length == 16 ? ak_get_u32(frame->payload + 12) : 0;
    if (number < 1 || number > SIGNAL_MAX || scope > 1)
        reply_invalid(agent, frame, "signal");
    else
        order_signal(agent, frame);
}

static void resize(const struct process *p, uint16_t rows, uint16_t columns)
{
    static const struct order announce = {.kind = ORDER_SIGNAL, .signal = SIGWINCH, .whole_tree = 1};
    if (terminal_resize(p->outlets[0].fd, rows, columns) == 0 && terminal_is_silent())
        (void)process_order(p, &announce);
}

static void handle_resize(struct agent *agent, const struct frame *frame)
{
    struct process *p = table_find(&agent->table, frame->id);
    if (frame->length != 4)
        reply_invalid(agent, frame, "resize");
    else if (p && p->terminal && p->outlets[0].fd >= 0)
        resize(p, ak_get_u16(frame->payload), ak_get_u16(frame->payload + 2));
}

static void handle_kill(struct agent *agent, const struct frame *frame)
{
    struct process *p = table_find(&agent->table, frame->id);
    uint32_t cause = frame->length == 4 ? ak_get_u32(frame->payload) : 0;
    if (cause != CAUSE_KILLED && cause != CAUSE_CLIENT_LOST)
        reply_invalid(agent, frame, "kill");
    else if (p)
        process_kill(agent, p, (enum cause)cause);
}

static void handle_resume(struct agent *agent, const struct frame *frame)
{
    struct process *p = table_find(&agent->table, frame->id);
    if (frame->length != 16) {
        reply_invalid(agent, frame, "resume");
        return;
    }
    if (!p) {
        reply_failed(agent, frame->id, ENOENT, STAGE_REQUEST, "resume");
        return;
    }
    if (ak_get_u64(frame->payload) > p->outlets[0].ring.end || ak_get_u64(frame->payload + 8) > p->outlets[1].ring.end) {
        reply_invalid(agent, frame, "resume offset");
        return;
    }
    process_subscribe(p, ak_get_u64(frame->payload), ak_get_u64(frame->payload + 8));
    p->owed = OWE_RESUMED;
    process_activate(agent, p);
}

static void handle_empty(struct agent *agent, const struct frame *frame)
{
    struct process *p = table_find(&agent->table, frame->id);
    if (frame->length)
        reply_invalid(agent, frame, "payload");
    else if (frame->type == FRAME_LIST)
        reply_list(agent, frame->id);
    else if (frame->type == FRAME_STATS)
        reply_stats(agent, frame->id);
    else if (frame->type == FRAME_FORGET && p)
        process_forget(agent, p);
    else if (frame->type == FRAME_SHUTDOWN) {
        reply_done(agent, frame->id);
        agent->ending = true;
    }
}

static void handle_ping(struct agent *agent, const struct frame *frame)
{
    struct builder b;
    uint8_t *memory = link_reserve(agent->current, 128);
    if (frame->length > PING_MAX || !memory) {
        reply_invalid(agent, frame, "ping");
        return;
    }
    builder_begin(&b, memory, 128, FRAME_REPLY, 0, frame->id);
    builder_field(&b, FIELD_ECHO, frame->length);
    builder_bytes(&b, frame->payload, frame->length);
    reply_commit(agent, &b);
}

void handle_frame(struct agent *agent, const struct frame *frame)
{
    static void (*const handlers[])(struct agent *, const struct frame *) = {
        [FRAME_CONFIGURE] = handle_configure, [FRAME_START] = handle_start, [FRAME_STDIN] = handle_stdin,
        [FRAME_CONSUMED] = handle_consumed, [FRAME_SIGNAL] = handle_signal, [FRAME_RESIZE] = handle_resize,
        [FRAME_KILL] = handle_kill, [FRAME_RESUME] = handle_resume, [FRAME_FORGET] = handle_empty,
        [FRAME_LIST] = handle_empty, [FRAME_STATS] = handle_empty, [FRAME_PING] = handle_ping,
        [FRAME_SHUTDOWN] = handle_empty, [FRAME_TUNNEL_OPEN] = handle_tunnel, [FRAME_TUNNEL_SEND] = handle_tunnel,
        [FRAME_TUNNEL_CREDIT] = handle_tunnel, [FRAME_TUNNEL_CLOSE] = handle_tunnel, [FRAME_ANSWER] = handle_tunnel,
    };
    if (frame->id == 0)
        reply_invalid(agent, frame, "id");
    else
        handlers[frame->type](agent, frame);
}
