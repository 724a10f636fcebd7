/* Starting a command: pipes or a terminal, rings, and the fork of its supervisor. */
#include "state.h"

#include "clock.h"
#include "descriptor.h"
#include "terminal.h"

#include <linux/eventpoll.h>
#include <linux/resource.h>
#include <linux/socket.h>

#ifndef AF_UNIX
#define AF_UNIX 1
#endif
#define SOCK_SEQPACKET 5
#define SPARE_DESCRIPTORS 16 /* kept free for new attaches and for reading /proc */

/* The descriptors of a command while it starts: what it gets, and what the agent keeps. */
struct ends {
    int input[2], output[2], error[2], control[2];
    int terminal[2];
};

static void close_pair(int pair[2])
{
    descriptor_close(&pair[0]);
    descriptor_close(&pair[1]);
}

static void close_ends(struct ends *ends)
{
    close_pair(ends->input);
    close_pair(ends->output);
    close_pair(ends->error);
    close_pair(ends->control);
    close_pair(ends->terminal);
}

static sysret open_terminal(struct ends *ends, const struct start_request *request)
{
    sysret error = terminal_open(request->rows, request->columns, request->uid, ends->terminal);
    if (error)
        return error;
    if (request->flags & START_STDIN) {
        error = SYS(fcntl, ends->terminal[0], F_DUPFD_CLOEXEC, 3);
        ends->input[1] = (int)error;
    }
    return error < 0 ? error : 0;
}

static sysret open_pipes(struct ends *ends, const struct start_request *request)
{
    sysret error = descriptor_pipe(ends->output);
    if (!error)
        error = descriptor_pipe(ends->error);
    if (!error && request->flags & START_STDIN)
        error = descriptor_pipe(ends->input);
    if (error)
        return error;
    (void)SYS(fcntl, ends->output[0], F_SETFL, O_NONBLOCK);
    (void)SYS(fcntl, ends->error[0], F_SETFL, O_NONBLOCK);
    if (ends->input[1] >= 0)
        (void)SYS(fcntl, ends->input[1], F_SETFL, O_NONBLOCK);
    return 0;
}

static sysret open_ends(struct ends *ends, const struct start_request *request, enum stage *stage)
{
    struct resource_limit files = {0};
    sysret error;
    *ends = (struct ends){{-1, -1}, {-1, -1}, {-1, -1}, {-1, -1}, {-1, -1}};
    *stage = STAGE_FORK;
    error = SYS(socketpair, AF_UNIX, SOCK_SEQPACKET | O_CLOEXEC, 0, ends->control);
    if (error) {
        ends->control[0] = ends->control[1] = -1;
        return error;
    }
    if (request->terminal)
        *stage = STAGE_TERMINAL;
    error = request->terminal ? open_terminal(ends, request) : open_pipes(ends, request);
    if (error)
        return error;
    *stage = STAGE_FORK;
    (void)SYS(prlimit64, 0, RLIMIT_NOFILE, NULL, &files);
    return files.soft && (uint64_t)ends->control[1] + SPARE_DESCRIPTORS > files.soft ? -EMFILE : 0;
}

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

static sysret fork_supervisor(struct agent *agent, const struct ends *ends, const struct start_request *request)
{
    sysret pid = process_fork();
    if (pid == 0) {
        struct spawn spawn = {
            .request = request,
            .configuration = &agent->configuration,
            .cgroups = &agent->cgroups,
            .files = agent->files,
            .input = request->terminal ? ends->terminal[1] : ends->input[0] >= 0 ? ends->input[0] : agent->null,
            .output = request->terminal ? ends->terminal[1] : ends->output[1],
            .error = request->terminal ? ends->terminal[1] : ends->error[1],
        };
        supervisor_run(&spawn, ends->control[1], agent->proc);
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

sysret process_start(struct agent *agent, uint64_t id, const struct start_request *request, enum stage *stage)
{
    struct ends ends;
    struct process *p = table_add(&agent->table, id);
    sysret result;
    *stage = STAGE_FORK;
    if (!p)
        return -EAGAIN;
    result = open_ends(&ends, request, stage);
    if (!result && !open_rings(p, request))
        result = -ENOMEM;
    if (!result)
        result = fork_supervisor(agent, &ends, request);
    if (result < 0) {
        close_rings(p);
        close_ends(&ends);
        table_remove(&agent->table, p);
        return result;
    }
    p->supervisor = agent->table.supervisors[p->slot] = (int)result;
    begin_record(agent, p, request);
    adopt_ends(agent, p, &ends);
    close_ends(&ends);
    process_subscribe(p, 0, 0);
    p->owed = OWE_STARTED | (request->flags & START_STDIN ? OWE_STDIN : 0);
    return 0;
}
