/* The life of a command's record: what the supervisor says, kills and deadlines, and when it has ended. */
#include "state.h"

#include "clock.h"
#include "descriptor.h"

#include <asm/ioctls.h>
#include <linux/socket.h>

#ifndef MSG_DONTWAIT
#define MSG_DONTWAIT 0x40
#endif
#define STATUS_KILLED 9u /* of a main process whose end nobody saw */

bool process_is_over(const struct process *p)
{
    return p->state >= PROCESS_ENDED;
}

void process_activate(struct agent *agent, struct process *p)
{
    if (p->active)
        return;
    p->active = true;
    p->next_active = NULL;
    if (agent->active_last)
        agent->active_last->next_active = p;
    else
        agent->active_first = p;
    agent->active_last = p;
}

static void set_deadline(struct agent *agent, uint64_t *deadline, uint64_t ms)
{
    *deadline = agent->now_ms + ms;
    agent_wake_at(agent, *deadline);
}

sysret process_order(const struct process *p, const struct order *order)
{
    sysret sent;
    if (p->control < 0 || p->supervisor_done)
        return -ESRCH;
    /* Where workload and agent share a uid, the workload may have stopped it. */
    if (p->supervisor)
        (void)SYS(kill, p->supervisor, SIGCONT);
    sent = SYS(sendto, p->control, order, sizeof *order, MSG_DONTWAIT, NULL, 0);
    return sent < 0 ? sent : 0;
}

void process_kill(struct agent *agent, struct process *p, enum cause cause)
{
    static const struct order order = {.kind = ORDER_KILL};
    if (process_is_over(p) || p->killing || p->released || p->supervisor_done)
        return;
    if (cause == CAUSE_TIMEOUT && p->main_ended)
        return;
    if (p->cause == CAUSE_ITSELF)
        p->cause = cause;
    p->killing = true;
    p->timeout_at = p->drain_at = p->orphan_at = 0;
    set_deadline(agent, &p->look_at, LOOK_MS);
    set_deadline(agent, &p->give_up_at, GIVE_UP_MS);
    (void)process_order(p, &order);
}

/* A host may sleep for hours with a background process; a foreground one is somebody's who waits. */
void process_unsubscribe(struct agent *agent, struct process *p)
{
    p->subscribed = false;
    p->owed = 0;
    if (!process_is_over(p) && !(p->flags & START_DETACHED) && !p->orphan_at)
        set_deadline(agent, &p->orphan_at, agent->configuration.orphan_ms);
}

void process_subscribe(struct process *p, uint64_t stdout_offset, uint64_t stderr_offset)
{
    uint64_t offsets[2] = {stdout_offset, stderr_offset};
    p->subscribed = true;
    p->orphan_at = 0;
    for (unsigned i = 0; i < 2; i++) {
        struct outlet *outlet = &p->outlets[i];
        outlet->sent = offsets[i] > outlet->ring.begin ? offsets[i] : outlet->ring.begin;
        if (p->exit_told && outlet->ring.end > outlet->until)
            outlet->until = outlet->ring.end; /* what survivors wrote since */
    }
}

static void close_outlets(struct process *p)
{
    descriptor_close(&p->outlets[0].fd);
    descriptor_close(&p->outlets[1].fd);
}

static void release_record(struct agent *agent, struct process *p)
{
    close_outlets(p);
    descriptor_close(&p->control);
    descriptor_close(&p->input);
    ring_close(&p->outlets[0].ring);
    ring_close(&p->outlets[1].ring);
    ring_close(&p->intake.ring);
    table_remove(&agent->table, p);
}

/* Records in the queue are let go by process_step, which is the only one that takes them out of it. */
void process_forget(struct agent *agent, struct process *p)
{
    if (!process_is_over(p))
        return;
    p->state = PROCESS_FORGOTTEN;
    p->subscribed = false;
    p->owed = 0;
    p->exit_told = true;
    p->id = agent->table.ids[p->slot] = 0;
    ring_close(&p->outlets[0].ring);
    ring_close(&p->outlets[1].ring);
    process_activate(agent, p);
}

static void evict(struct agent *agent, struct process *p)
{
    process_forget(agent, p);
    close_outlets(p);
}

static void answer_signal(struct agent *agent, struct result *result, int error)
{
    result->error = error;
    if (!agent->current)
        return;
    if (error)
        reply_failed(agent, result->id, (unsigned)error, STAGE_REQUEST, "signal");
    else
        reply_done(agent, result->id);
}

static void signalled(struct agent *agent, const struct note *note)
{
    struct result *result = results_find(&agent->results, note->id);
    if (result && result->error == RESULT_PENDING)
        answer_signal(agent, result, note->error);
}

static void mark_over(struct agent *agent, struct process *p, enum process_state state)
{
    struct process *oldest;
    p->state = state;
    p->timeout_at = p->drain_at = p->orphan_at = p->look_at = p->give_up_at = 0;
    descriptor_close(&p->control);
    descriptor_close(&p->input);
    ring_close(&p->intake.ring);
    p->intake.closed = true;
    p->intake.ring.begin = p->intake.ring.end;
    /* Signals that reached the supervisor too late. */
    for (struct result *late; (late = results_pending(&agent->results, p->id)) != NULL;)
        answer_signal(agent, late, ESRCH);
    spare_command_ended(agent);
    oldest = table_mark_ended(&agent->table, p);
    if (oldest)
        evict(agent, oldest);
}

static void main_ended(struct agent *agent, struct process *p, const struct note *note)
{
    if (p->main_ended)
        return;
    p->main_ended = true;
    p->end = *note;
    p->wall_us = monotonic_us() - p->started_us;
    p->timeout_at = 0;
    if (!note->children)
        p->supervisor_done = true;
    if (!p->killing || p->supervisor_done)
        set_deadline(agent, &p->drain_at, DRAIN_MS);
}

static void tree_gone(struct agent *agent, struct process *p)
{
    if (p->supervisor_done)
        return;
    p->supervisor_done = true;
    if (p->main_ended)
        set_deadline(agent, &p->drain_at, DRAIN_MS);
}

static void failed(struct agent *agent, struct process *p, const struct note *note)
{
    p->failure_errno = (uint32_t)note->error;
    p->failure_stage = note->stage;
    p->supervisor_done = true;
    p->outlets[0].ring.begin = p->outlets[0].ring.end;
    p->outlets[1].ring.begin = p->outlets[1].ring.end;
    close_outlets(p);
    mark_over(agent, p, PROCESS_FAILED);
}

static void take_note(struct agent *agent, struct process *p, const struct note *note)
{
    switch (note->kind) {
    case NOTE_STARTED:
        p->main = (int)note->pid;
        p->state = PROCESS_RUNNING;
        break;
    case NOTE_FAILED:
        failed(agent, p, note);
        break;
    case NOTE_ENDED:
        main_ended(agent, p, note);
        break;
    case NOTE_RELEASED:
        p->survivors = true;
        tree_gone(agent, p);
        break;
    case NOTE_GONE:
        tree_gone(agent, p);
        break;
    default:
        signalled(agent, note);
    }
}

static void read_notes(struct agent *agent, struct process *p)
{
    while (p->control >= 0 && p->control_readable && !process_is_over(p)) {
        struct note note;
        sysret n;
        if (agent->current && link_room(agent->current) < MAX_FRAME)
            return; /* an answer to a signal needs room */
        n = SYS(recvfrom, p->control, &note, sizeof note, MSG_DONTWAIT, NULL, NULL);
        if (n == (sysret)sizeof note)
            take_note(agent, p, &note);
        else if (n == -EAGAIN)
            p->control_readable = false;
        else if (n != -EINTR)
            descriptor_close(&p->control);
    }
}

/* The supervisor is gone without having said that its work is done: the tree is the agent's now. */
void process_supervisor_ended(struct agent *agent, struct process *p)
{
    int pid = p->supervisor;
    p->supervisor = agent->table.supervisors[p->slot] = 0;
    p->control_readable = true;
    read_notes(agent, p);
    process_activate(agent, p);
    if (process_is_over(p) || p->supervisor_done)
        return;
    if (p->main_ended && !p->killing && !(p->flags & START_ENDS_TREE)) { /* only survivors were left, and they are PID 1's in any case */
        p->survivors = true;
        tree_gone(agent, p);
        return;
    }
    if (p->state == PROCESS_STARTING) { /* it may have begun, and cannot say so any more */
        p->state = PROCESS_RUNNING;
        p->main = pid;
    }
    if (p->cause == CAUSE_ITSELF && !p->main_ended)
        p->cause = CAUSE_SUPERVISOR_LOST;
    p->killing = p->awaits_sweep = true;
    if (!p->give_up_at)
        set_deadline(agent, &p->give_up_at, GIVE_UP_MS);
    agent_sweep(agent);
}

void process_main_reaped(struct process *p, int status)
{
    if (p->main_ended)
        return;
    p->main_ended = true;
    p->end = (struct note){.status = (uint32_t)status};
    p->wall_us = monotonic_us() - p->started_us;
    p->timeout_at = 0;
}

void process_swept(struct agent *agent, struct process *p)
{
    if (!p->awaits_sweep)
        return;
    p->awaits_sweep = false;
    process_main_reaped(p, STATUS_KILLED);
    tree_gone(agent, p);
    process_activate(agent, p);
}

/* First the supervisor is ended, which makes the tree the agent's; if that does not help either, the kernel holds a process. */
static void give_up(struct agent *agent, struct process *p)
{
    set_deadline(agent, &p->give_up_at, GIVE_UP_MS);
    if (!p->gave_up && p->supervisor) {
        p->gave_up = true;
        (void)SYS(kill, p->supervisor, SIGKILL);
        return;
    }
    if (p->state == PROCESS_STARTING)
        p->state = PROCESS_RUNNING;
    p->awaits_sweep = true;
    process_swept(agent, p);
}

/*
 * Where workload and agent share a uid, the workload can stop or trace the supervisor for good, but not PID 1. A supervisor whose command
 * has not been executed yet sleeps until it is: if it still does after a second, the workload or a dead file system holds the command.
 */
static void look(struct agent *agent, struct process *p)
{
    struct process_stat stat;
    bool held = false, known = p->supervisor && agent->proc >= 0 && process_table_stat(agent->proc, p->supervisor, &stat);
    p->look_at = 0;
    if (!p->supervisor || p->gave_up)
        return;
    if (known && p->state == PROCESS_STARTING && stat.state == 'D')
        held = ++p->held_looks >= HELD_LOOKS;
    if (held || (known && (stat.state == 'T' || stat.state == 't')))
        give_up(agent, p);
    else
        set_deadline(agent, &p->look_at, LOOK_MS);
}

static bool is_due(const struct agent *agent, uint64_t deadline)
{
    return deadline && agent->now_ms >= deadline;
}

void process_check_deadlines(struct agent *agent, struct process *p)
{
    if (is_due(agent, p->timeout_at))
        process_kill(agent, p, CAUSE_TIMEOUT);
    if (is_due(agent, p->orphan_at)) {
        p->orphan_at = 0;
        process_kill(agent, p, CAUSE_CLIENT_LOST);
    }
    if (is_due(agent, p->look_at))
        look(agent, p);
    if (is_due(agent, p->give_up_at))
        give_up(agent, p);
    if (is_due(agent, p->drain_at))
        process_activate(agent, p);
    if (is_due(agent, p->timeout_at))
        p->timeout_at = 0;
}

uint64_t process_next_deadline(const struct process *p)
{
    const uint64_t deadlines[] = {p->timeout_at, p->stops_known ? 0 : p->drain_at, p->orphan_at, p->look_at, p->give_up_at};
    uint64_t next = 0;
    for (unsigned i = 0; i < 5; i++)
        if (deadlines[i] && (!next || deadlines[i] < next))
            next = deadlines[i];
    return next;
}

/* What lies in the pipe at this moment was written before the end, however slow the host is in making room for it. */
static void fix_stop(struct outlet *outlet)
{
    int waiting = 0;
    outlet->stop = outlet->ring.end;
    if (outlet->fd >= 0 && SYS(ioctl, outlet->fd, FIONREAD, &waiting) == 0 && waiting > 0)
        outlet->stop += (uint64_t)waiting;
    outlet->until = outlet->stop;
}

/* The main process has ended and its output is complete: what is left of the tree ends with it, or goes on under PID 1. */
static void part(struct agent *agent, struct process *p)
{
    static const struct order release = {.kind = ORDER_RELEASE};
    if (p->flags & START_ENDS_TREE) {
        process_kill(agent, p, CAUSE_ITSELF);
        return;
    }
    p->released = true;
    set_deadline(agent, &p->give_up_at, GIVE_UP_MS);
    if (process_order(p, &release) < 0)
        tree_gone(agent, p);
}

static void settle(struct agent *agent, struct process *p)
{
    if (process_is_over(p) || !p->main_ended || (p->killing && !p->supervisor_done))
        return;
    if (!p->stops_known) {
        bool closed = p->outlets[0].fd < 0 && p->outlets[1].fd < 0;
        if (!closed && !is_due(agent, p->drain_at))
            return;
        p->stops_known = true;
        fix_stop(&p->outlets[0]);
        fix_stop(&p->outlets[1]);
    }
    if (!p->supervisor_done && !p->released)
        part(agent, p);
    if (p->supervisor_done)
        mark_over(agent, p, PROCESS_ENDED);
}

/* An ended record that was read to its end needs no memory for output. */
static void trim(struct process *p)
{
    for (unsigned i = 0; i < 2; i++) {
        struct outlet *outlet = &p->outlets[i];
        if (p->state >= PROCESS_ENDED && outlet->fd < 0 && outlet->ring.begin == outlet->ring.end)
            ring_close(&outlet->ring);
    }
}

void process_step(struct agent *agent, struct process *p)
{
    read_notes(agent, p);
    if (p->state == PROCESS_FAILED)
        close_outlets(p);
    pump_output(p, &p->outlets[0]);
    pump_output(p, &p->outlets[1]);
    if (!process_is_over(p))
        pump_input(p);
    settle(agent, p);
    deliver(agent, p);
    trim(p);
    if (p->state == PROCESS_FORGOTTEN && p->outlets[0].fd < 0 && p->outlets[1].fd < 0 && !p->supervisor) {
        release_record(agent, p);
        return;
    }
    if (pump_has_work(p) || deliver_has_work(agent, p))
        process_activate(agent, p);
}
