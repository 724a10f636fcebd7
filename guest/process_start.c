/* Starting a command: pipes or a terminal, rings, and the fork of its supervisor. */
#include "state.h"

#include "clock.h"
#include "descriptor.h"
#include "ends.h"

#include <linux/eventpoll.h>

static bool open_rings(struct process *p, const struct start_request *request)
{
    if (!ring_open(&p->outlets[0].ring, request->ring))
        return false;
    if (!request->terminal && !ring_open(&p->outlets[1].ring, request->ring))
        return false;
    return !(request->flags & START_STDIN) || ring_open(&p->intake.ring, INTAKE_CAPACITY);
}

static void close_rings(struct process *p)
{
    ring_close(&p->outlets[0].ring);
    ring_close(&p->outlets[1].ring);
    ring_close(&p->intake.ring);
}

static sysret fork_supervisor(struct agent *agent, struct ends *ends, const struct start_request *request)
{
    sysret pid = ends_open_control(ends);
    if (pid < 0)
        return pid;
    pid = process_fork();
    if (pid == 0) {
        struct supervisor supervisor;
        bool terminal = request->terminal;
        struct spawn spawn = {
            .request = request,
            .configuration = &agent->configuration,
            .cgroups = &agent->cgroups,
            .files = agent->files,
            .input = terminal ? ends->terminal[1] : ends->input[0] >= 0 ? ends->input[0] : agent->null,
            .output = terminal ? ends->terminal[1] : ends->output[1],
            .error = terminal ? ends->terminal[1] : ends->error[1],
        };
        supervisor_begin(&supervisor, &spawn, ends->control[1], agent->proc);
        supervisor_run(&supervisor, &spawn);
    }
    return pid;
}

static void keep_command(struct process *p, const struct start_request *request)
{
    for (uint32_t i = 0; i < request->argc && p->command_length < COMMAND_MAX; i++) {
        size_t n = strlen(request->argv[i]), room;
        if (i > 0)
            p->command[p->command_length++] = '\0';
        room = COMMAND_MAX - p->command_length;
        n = n < room ? n : room;
        memcpy(p->command + p->command_length, request->argv[i], n);
        p->command_length += (uint32_t)n;
    }
}

static int take(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}

/* Moves the agent's ends into the record; the others are closed by the caller. */
static void adopt_ends(struct agent *agent, struct process *p, struct ends *ends)
{
    p->control = take(&ends->control[0]);
    p->input = take(&ends->input[1]);
    p->outlets[0].fd = take(p->terminal ? &ends->terminal[0] : &ends->output[0]);
    p->outlets[1].fd = take(&ends->error[0]);
    (void)agent_watch(agent, p->control, SOURCE_CONTROL, p->slot, EPOLLIN);
    (void)agent_watch(agent, p->outlets[0].fd, SOURCE_STDOUT, p->slot, EPOLLIN);
    if (p->outlets[1].fd >= 0)
        (void)agent_watch(agent, p->outlets[1].fd, SOURCE_STDERR, p->slot, EPOLLIN);
    if (p->input >= 0)
        (void)agent_watch(agent, p->input, SOURCE_STDIN, p->slot, EPOLLOUT);
}

static void begin_record(struct agent *agent, struct process *p, const struct start_request *request)
{
    p->flags = request->flags;
    p->terminal = request->terminal;
    p->builtin = request->builtin;
    p->line_start = true;
    p->input_writable = true;
    p->started_us = monotonic_us();
    p->started_unix_ms = unix_ms();
    keep_command(p, request);
    if (request->timeout_ms && request->timeout_ms < UINT64_MAX / 2)
        p->timeout_at = agent->now_ms + request->timeout_ms;
    if (p->timeout_at)
        agent_wake_at(agent, p->timeout_at);
}

sysret process_start(struct agent *agent, const struct frame *frame, const struct start_request *request, enum stage *stage)
{
    struct ends ends;
    struct process *p = table_add(&agent->table, frame->id);
    sysret result;
    *stage = STAGE_FORK;
    if (!p)
        return -EAGAIN;
    result = ends_open(&ends, request, stage);
    if (!result && !open_rings(p, request))
        result = -ENOMEM;
    if (!result) {
        result = spare_take(agent, &ends, request, frame->payload, (uint32_t)frame->length);
        if (result < 0)
            result = fork_supervisor(agent, &ends, request);
    }
    if (result < 0) {
        close_rings(p);
        ends_close(&ends);
        table_remove(&agent->table, p);
        return result;
    }
    p->supervisor = agent->table.supervisors[p->slot] = (int)result;
    begin_record(agent, p, request);
    adopt_ends(agent, p, &ends);
    ends_close(&ends);
    spare_command_began(agent);
    process_subscribe(p, 0, 0);
    p->owed = OWE_STARTED | (request->flags & START_STDIN ? OWE_STDIN : 0);
    return 0;
}
