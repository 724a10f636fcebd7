/* Starting a command: pipes or a terminal, rings, and the fork of its supervisor. */
#include "state.h"

#include "clock.h"
#include "descriptor.h"

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

static sysret fork_supervisor(struct agent *agent, struct process *p, const struct ends *ends)
{
    int fds[PASSED], control[2];
    sysret pid = passing_pair(control);
    if (pid)
        return pid;
    ends_of_command(ends, agent->null, fds);
    pid = process_fork();
    if (pid == 0) {
        struct spawn spawn = {
            .request = &agent->request,
            .configuration = &agent->configuration,
            .cgroups = &agent->cgroups,
            .files = agent->files,
            .input = fds[0],
            .output = fds[1],
            .error = fds[2],
            .handover = -1,
        };
        supervisor_run(&spawn, control[1], agent->proc);
    }
    (void)SYS(close, control[1]);
    if (pid < 0) {
        (void)SYS(close, control[0]);
        return pid;
    }
    p->supervisor = agent->table.supervisors[p->slot] = (int)pid;
    p->control = control[0];
    return 0;
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

/* Moves the agent's ends into the record. */
static void adopt_ends(struct agent *agent, struct process *p, struct ends *ends)
{
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

/* The command's ends stay open until it is certain that no other process will need them. */
static void leave_ends(struct agent *agent, const struct process *p, struct ends *ends)
{
    if (agent->spare.taker == p)
        agent->spare.ends = *ends;
    else
        ends_close(ends);
}

static void begin_record(struct agent *agent, struct process *p, const struct start_request *request)
{
    p->flags = request->flags;
    p->terminal = request->terminal;
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

sysret process_start(struct agent *agent, const struct frame *frame, enum stage *stage)
{
    const struct start_request *request = &agent->request;
    struct ends ends;
    struct process *p = table_add(&agent->table, frame->id);
    sysret result;
    *stage = STAGE_FORK;
    if (!p)
        return -EAGAIN;
    result = ends_open(&ends, request, stage);
    if (!result && !open_rings(p, request))
        result = -ENOMEM;
    if (!result && !spare_take(agent, p, &ends, frame))
        result = fork_supervisor(agent, p, &ends);
    if (result < 0) {
        close_rings(p);
        ends_close(&ends);
        table_remove(&agent->table, p);
        return result;
    }
    begin_record(agent, p, request);
    adopt_ends(agent, p, &ends);
    leave_ends(agent, p, &ends);
    process_subscribe(p, 0, 0);
    p->owed = OWE_STARTED | (request->flags & START_STDIN ? OWE_STDIN : 0);
    spare_postpone(agent, false);
    return 0;
}

sysret process_start_again(struct agent *agent, struct process *p)
{
    struct spare *spare = &agent->spare;
    sysret result = start_request_parse(&agent->request, spare->payload, spare->length);
    if (p->supervisor)
        (void)SYS(kill, p->supervisor, SIGCONT); /* it sees that its control socket is closed, and ends with all that it has */
    descriptor_close(&p->control);
    p->supervisor = agent->table.supervisors[p->slot] = 0;
    if (!result)
        result = fork_supervisor(agent, p, &spare->ends);
    spare_settle(agent, p);
    if (result)
        return result;
    p->control_readable = true;
    (void)agent_watch(agent, p->control, SOURCE_CONTROL, p->slot, EPOLLIN);
    return 0;
}
