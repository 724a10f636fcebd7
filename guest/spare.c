/* The agent's side of a spare; the child's is in spawn.c. */
#include "state.h"

#include "clock.h"
#include "descriptor.h"
#include "gvisor.h"

#include <linux/socket.h>

#define IDLE_MS 3u  /* after the end of a command: less than a host needs to destroy a sandbox that it used once */
#define BUSY_MS 50u /* after the start of one that is still running then */
#define AK_MSG_DONTWAIT 0x40
#define AK_SHUT_RDWR 2

void spare_begin(struct agent *agent)
{
    agent->spare.control = agent->spare.handover = agent->spare.given = -1;
    spare_make(agent);
}

/* What a spare does before START is to join; into a v2 group the command is born. In gVisor the two forks take half of a short command's time. */
static bool is_of_use(const struct agent *agent)
{
    return agent->cgroups.v1_count > 0 || gvisor_is_kernel();
}

static void fork_spare(struct agent *agent, const int control[2], const int handover[2])
{
    struct spare *spare = &agent->spare;
    struct spawn spawn = {
        .configuration = &agent->configuration,
        .cgroups = &agent->cgroups,
        .files = agent->files,
        .input = -1,
        .output = -1,
        .error = -1,
        .handover = handover[1],
        .agent = (int)SYS(getpid),
    };
    sysret pid = process_fork();
    if (pid == 0)
        supervisor_run(&spawn, control[1], agent->proc);
    spare->supervisor = pid > 0 ? (int)pid : 0;
    spare->control = pid > 0 ? control[0] : -1;
    spare->handover = pid > 0 ? handover[0] : -1;
    (void)SYS(close, control[pid > 0]);
    (void)SYS(close, handover[pid > 0]);
    if (pid > 0)
        return;
    (void)SYS(close, control[1]);
    (void)SYS(close, handover[1]);
}

void spare_make(struct agent *agent)
{
    int control[2], handover[2];
    agent->spare.make_at = 0;
    if (!is_of_use(agent) || agent->spare.supervisor || agent->spare.taker || passing_pair(control))
        return;
    if (passing_pair(handover)) {
        (void)SYS(close, control[0]);
        (void)SYS(close, control[1]);
        return;
    }
    fork_spare(agent, control, handover);
}

void spare_postpone(struct agent *agent, bool ended)
{
    if (is_of_use(agent))
        agent->spare.make_at = agent->now_ms + (ended ? IDLE_MS : BUSY_MS);
}

/* Its child dies with it. */
static void give_up(struct spare *spare)
{
    (void)SYS(kill, spare->supervisor, SIGKILL);
    descriptor_close(&spare->control);
    descriptor_close(&spare->handover);
    spare->supervisor = 0;
}

void spare_configure(struct agent *agent)
{
    struct spare *spare = &agent->spare;
    if (spare->supervisor && passing_send(spare->handover, PASS_CONFIGURATION, &agent->configuration, sizeof agent->configuration, NULL) < 0)
        give_up(spare);
}

bool spare_take(struct agent *agent, struct process *p, const struct ends *ends, const struct frame *frame)
{
    struct spare *spare = &agent->spare;
    int fds[PASSED];
    if (!spare->supervisor)
        return false;
    ends_of_command(ends, agent->null, fds);
    if (passing_send(spare->handover, PASS_START, frame->payload, frame->length, fds) < 0) {
        give_up(spare);
        return false;
    }
    /* Both may have been stopped. Until it has its request the child is in its supervisor's process group. */
    (void)SYS(kill, spare->supervisor, SIGCONT);
    (void)SYS(kill, -spare->supervisor, SIGCONT);
    p->supervisor = agent->table.supervisors[p->slot] = spare->supervisor;
    p->control = spare->control;
    spare->taker = p;
    spare->given = spare->handover;
    spare->supervisor = 0;
    spare->control = spare->handover = -1;
    spare->length = frame->length;
    memcpy(spare->payload, frame->payload, frame->length);
    return true;
}

static bool has_said_so(const struct spare *spare)
{
    char byte;
    sysret n = SYS(recvfrom, spare->given, &byte, 1, AK_MSG_DONTWAIT, NULL, NULL);
    if (n == -ECONNRESET) /* it has not taken all that it was sent, and that is told first */
        n = SYS(recvfrom, spare->given, &byte, 1, AK_MSG_DONTWAIT, NULL, NULL);
    return n == 1;
}

bool spare_has_begun(struct agent *agent, const struct process *p)
{
    struct spare *spare = &agent->spare;
    bool begun = spare->taker != p || has_said_so(spare);
    if (!begun) {
        /* From here on it cannot say so any more, and then it exits; it may have done so just before. */
        (void)SYS(shutdown, spare->given, AK_SHUT_RDWR);
        begun = has_said_so(spare);
    }
    if (begun)
        spare_settle(agent, p);
    return begun;
}

void spare_settle(struct agent *agent, const struct process *p)
{
    struct spare *spare = &agent->spare;
    if (spare->taker != p)
        return;
    spare->taker = NULL;
    descriptor_close(&spare->given);
    ends_close(&spare->ends);
    if (!spare->make_at)
        spare_postpone(agent, false); /* the time for another came and went meanwhile */
}

bool spare_reaped(struct agent *agent, int pid)
{
    if (!pid || pid != agent->spare.supervisor)
        return false;
    descriptor_close(&agent->spare.control);
    descriptor_close(&agent->spare.handover);
    agent->spare.supervisor = 0;
    return true;
}
