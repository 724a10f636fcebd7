/* What the child of a spare hears from the agent, and the one thing that it says. */
#include "spare_child.h"

#include "passing.h"

#include <linux/prctl.h>

#define MSG_NOBODY_THERE 0x4000 /* MSG_NOSIGNAL: no SIGPIPE */
#define AFFINITY_BYTES 1024     /* of 8,192 processors */

/* Where no cgroup limits processors, the host has set the agent's affinity, perhaps after this process was forked. */
static void follow_affinity(int agent)
{
    uint64_t theirs[AFFINITY_BYTES / 8], ours[AFFINITY_BYTES / 8];
    sysret n = SYS(sched_getaffinity, agent, sizeof theirs, theirs);
    if (n <= 0 || (SYS(sched_getaffinity, 0, sizeof ours, ours) == n && memcmp(ours, theirs, (size_t)n) == 0))
        return;
    (void)SYS(sched_setaffinity, 0, n, theirs);
}

void spare_child_wait(struct spawn *spawn)
{
    static struct start_request request;
    static struct configuration configuration;
    static uint8_t payload[MAX_PAYLOAD];
    enum passing_kind kind;
    int fds[PASSED];
    sysret size;
    while ((size = passing_receive(spawn->handover, &kind, payload, sizeof payload, fds)) >= 0 && kind == PASS_CONFIGURATION) {
        if (size != (sysret)sizeof configuration)
            ak_exit(0);
        memcpy(&configuration, payload, sizeof configuration);
        spawn->configuration = &configuration;
    }
    if (size < 0 || fds[0] < 3 || start_request_parse(&request, payload, (size_t)size))
        ak_exit(0);
    spawn->request = &request;
    spawn->input = fds[0];
    spawn->output = fds[1];
    spawn->error = fds[2];
    follow_affinity(spawn->agent);
}

void spare_child_begin(const struct spawn *spawn)
{
    (void)SYS(prctl, PR_SET_PDEATHSIG, 0, 0, 0, 0);
    if (SYS(sendto, spawn->handover, "", 1, MSG_NOBODY_THERE, NULL, 0) != 1)
        ak_exit(0);
    (void)SYS(close, spawn->handover);
}
