/* The spare supervisor, on both sides: the agent that makes it and hands it a command, and itself while it waits. */
#include "spare.h"

#include "clock.h"
#include "descriptor.h"
#include "gvisor.h"
#include "socket.h"
#include "state.h"

#include <linux/mman.h>

#define HANDED_MAX 3        /* descriptors */
#define SETTLE_MS 20u       /* from CONFIGURE: what follows at once is the first command, which no spare can be ready for */
#define OCCUPIED_MS 200u    /* from a START: the command has the processor first */
#define RETRY_SPARE_MS 1000u

/* As recvmsg(2) and sendmsg(2) take them; the kernel's headers for programs lack them. */
struct message {
    void *name;
    uint32_t name_length;
    struct iovec *parts;
    size_t part_count;
    void *control;
    size_t control_length;
    int flags;
};

struct rights {
    size_t length;
    int level, type;
    int fds[HANDED_MAX + 1];
};

#define RIGHTS_HEADER offsetof(struct rights, fds)

/* How many descriptors go over: a terminal alone, or output, error and, if it has one, input. */
static unsigned wanted(const struct start_request *request)
{
    return request->terminal ? 1 : request->flags & START_STDIN ? 3 : 2;
}

static void place(const struct agent *agent, struct spawn *spawn, const int fds[HANDED_MAX])
{
    bool terminal = spawn->request->terminal;
    spawn->output = fds[0];
    spawn->error = fds[terminal ? 0 : 1];
    spawn->input = terminal ? fds[0] : spawn->request->flags & START_STDIN ? fds[2] : agent->null;
}

/* Waits for the command; the number of its descriptors. Ends the process when the agent is gone or says something else. */
static unsigned receive(int control, uint32_t *length, int fds[HANDED_MAX])
{
    struct order order = {0};
    struct iovec part = {&order, sizeof order};
    struct rights rights = {0};
    struct message message = {.parts = &part, .part_count = 1, .control = &rights, .control_length = sizeof rights};
    sysret n;
    unsigned count;
    do
        n = SYS(recvmsg, control, &message, AK_MSG_CMSG_CLOEXEC);
    while (n == -EINTR);
    if (n != (sysret)sizeof order || order.kind != ORDER_START || order.signal > MAX_PAYLOAD || rights.level != AK_SOL_SOCKET
        || rights.type != AK_SCM_RIGHTS || rights.length < RIGHTS_HEADER)
        ak_exit(0);
    count = (unsigned)((rights.length - RIGHTS_HEADER) / sizeof(int));
    if (count < 1 || count > HANDED_MAX)
        ak_exit(0);
    memcpy(fds, rights.fds, count * sizeof(int));
    *length = order.signal;
    return count;
}

/* The process that waits. What it knows of the agent is a copy from when it was made; that part does not change. */
static _Noreturn void wait_for_command(struct agent *agent, int control)
{
    struct spawn spawn = {.request = &agent->request, .configuration = &agent->configuration, .cgroups = &agent->cgroups, .files = agent->files};
    struct supervisor supervisor;
    int fds[HANDED_MAX];
    unsigned count;
    uint32_t length;
    spawn.input = spawn.output = spawn.error = agent->null;
    supervisor_begin(&supervisor, &spawn, control, agent->proc);
    count = receive(control, &length, fds);
    if (start_request_parse(&agent->request, agent->spare.payload, length) || count != wanted(&agent->request))
        ak_exit(0); /* never: the agent has parsed it */
    place(agent, &spawn, fds);
    supervisor_run(&supervisor, &spawn);
}

/* Forgets it; what is its own of this it keeps. */
static void let_go(struct spare *spare)
{
    ak_unmap(spare->payload, MAX_PAYLOAD);
    spare->payload = NULL;
    spare->pid = 0;
}

static bool make(struct agent *agent)
{
    struct spare *spare = &agent->spare;
    int pair[2];
    sysret pid, payload = SYS(mmap, NULL, MAX_PAYLOAD, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (payload < 0)
        return false;
    spare->payload = (uint8_t *)payload;
    pid = SYS(socketpair, AK_AF_UNIX, AK_SOCK_SEQPACKET | O_CLOEXEC, 0, pair);
    if (pid == 0) {
        pid = process_fork();
        if (pid == 0)
            wait_for_command(agent, pair[1]);
        (void)SYS(close, pair[1]);
        if (pid < 0)
            (void)SYS(close, pair[0]);
    }
    if (pid < 0) {
        let_go(spare);
        return false;
    }
    spare->pid = (int)pid;
    spare->control = pair[0];
    return true;
}

void spare_keep(struct agent *agent)
{
    struct spare *spare = &agent->spare;
    if (spare->pid || !spare->due_ms || agent->now_ms < spare->due_ms || agent->sweeping || agent->ending)
        return;
    spare->due_ms = make(agent) ? 0 : agent->now_ms + RETRY_SPARE_MS;
}

static void want(struct agent *agent, uint64_t after_ms)
{
    if (gvisor_is_kernel())
        agent->spare.due_ms = agent->now_ms + after_ms;
}

void spare_configured(struct agent *agent)
{
    want(agent, SETTLE_MS);
}

void spare_command_began(struct agent *agent)
{
    agent->spare.started++;
    want(agent, OCCUPIED_MS);
}

/* A sandbox that has run two commands is likely to run a third; the one of a sandbox made for one command was its last. */
void spare_command_ended(struct agent *agent)
{
    if (agent->spare.started > 1)
        want(agent, 0);
}

static sysret hand_over(int control, const struct ends *ends, const struct start_request *request, uint32_t length)
{
    struct order order = {.kind = ORDER_START, .signal = length};
    struct iovec part = {&order, sizeof order};
    struct rights rights = {.level = AK_SOL_SOCKET, .type = AK_SCM_RIGHTS};
    struct message message = {.parts = &part, .part_count = 1, .control = &rights};
    rights.fds[0] = request->terminal ? ends->terminal[1] : ends->output[1];
    rights.fds[1] = ends->error[1];
    rights.fds[2] = ends->input[0];
    rights.length = RIGHTS_HEADER + wanted(request) * sizeof(int);
    message.control_length = (rights.length + sizeof(size_t) - 1) & ~(sizeof(size_t) - 1);
    return SYS(sendmsg, control, &message, AK_MSG_NOSIGNAL);
}

sysret spare_take(struct agent *agent, struct ends *ends, const struct start_request *request, const uint8_t *payload, uint32_t length)
{
    struct spare *spare = &agent->spare;
    int pid = spare->pid, control = spare->control;
    sysret sent;
    if (!pid || agent->sweeping)
        return -ENOENT; /* a sweep may have marked it already, and would end the command */
    (void)SYS(kill, pid, SIGCONT); /* a workload that shares the agent's uid may have stopped it */
    memcpy(spare->payload, payload, length);
    let_go(spare);
    sent = hand_over(control, ends, request, length);
    if (sent < 0) {
        (void)SYS(close, control);
        return sent;
    }
    ends->control[0] = control;
    return pid;
}

void spare_died(struct agent *agent)
{
    let_go(&agent->spare);
    descriptor_close(&agent->spare.control);
    want(agent, RETRY_SPARE_MS);
}
