/*
 * A supervisor that waits for a command: made while there is nothing else to do, so that nobody waits for its fork.
 *
 * Only where a fork is dear: gVisor makes an address space of the host's for it, which takes longer than all else between START and exec.
 * It is handed the START frame's payload in shared memory, and the command's descriptors over the socket that it is given orders on.
 */
#ifndef AK_SPARE_H
#define AK_SPARE_H

#include "ends.h"

struct spare {
    int pid; /* 0: none */
    int control;
    uint8_t *payload; /* MAX_PAYLOAD bytes, shared with it and with nobody else; NULL: none */
    uint64_t due_ms;  /* when one is to be made; 0: not */
    unsigned started; /* commands, of any supervisor */
};

struct agent;

/* Makes one now, if there is none and one is due. */
void spare_keep(struct agent *agent);
/* A command begins or ends: tells when the next one is wanted. */
void spare_command_began(struct agent *agent);
void spare_command_ended(struct agent *agent);
/* The agent is configured: what a spare knows of it will not change any more. */
void spare_configured(struct agent *agent);
/* Hands the command over; the supervisor's pid, with its socket as the agent's end of `ends->control`; or -errno, then there is no spare any more. */
sysret spare_take(struct agent *agent, struct ends *ends, const struct start_request *request, const uint8_t *payload, uint32_t length);
/* The spare has died before its time. */
void spare_died(struct agent *agent);

#endif
