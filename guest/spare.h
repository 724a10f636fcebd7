/*
 * The spare: a supervisor and its child, forked ahead of the command that they are for.
 *
 * A process that moves to another v1 cgroup waits for an RCU grace period, unless another has moved just before: 5 to 15 ms (a percpu
 * rw-semaphore, kernel/cgroup/cgroup.c). The spare's child has moved when START comes. It waits as the agent's user for the request and
 * the descriptors; from then on it is the main process that a fork would have made.
 *
 * Nothing is lost with a spare. Where the workload has the agent's user it may stop, kill or limit one. So the child's last act before it
 * is irrevocably the command's is to say so to the agent. If it cannot, because it or its supervisor is gone, the agent takes back the
 * request and starts the command without a spare.
 */
#ifndef AK_SPARE_H
#define AK_SPARE_H

#include "ends.h"
#include "process.h"

struct spare {
    int supervisor;        /* pid; 0: there is no spare */
    int control, handover; /* the agent's ends of sockets to it and to its child */
    uint64_t make_at;      /* monotonic ms; 0: not to be made */

    /* The command that got the last one, until it is certain that it runs, and what would start it again. */
    struct process *taker; /* NULL: none */
    int given;             /* the agent's end of the socket to its child */
    struct ends ends;      /* the child's */
    uint32_t length;
    uint8_t payload[MAX_PAYLOAD];
};

void spare_begin(struct agent *agent);
/* The deadline has come: makes a spare, if there is none and one is of use. */
void spare_make(struct agent *agent);
/* Something started, or ended: a spare is made when nothing did for a moment. */
void spare_postpone(struct agent *agent, bool ended);
/* The agent was configured: so is a spare that was made before. */
void spare_configure(struct agent *agent);
/* Gives the spare to a new command; false if there is none (any more), and nothing has happened. */
bool spare_take(struct agent *agent, struct process *p, const struct ends *ends, const struct frame *frame);
/* Whether the process is certainly that of its request; if not, it never will be. True for all that got no spare. */
bool spare_has_begun(struct agent *agent, const struct process *p);
/* What would start the command again is not needed any more. */
void spare_settle(struct agent *agent, const struct process *p);
/* A child was waited for; true if it was the spare's supervisor. */
bool spare_reaped(struct agent *agent, int pid);

#endif
