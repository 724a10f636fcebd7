/* The steps of a started process between fork and exec. */
#ifndef AK_SPAWN_H
#define AK_SPAWN_H

#include "agent.h"
#include "request.h"

/* As prlimit64(2) takes it. */
struct resource_limit {
    uint64_t soft, hard;
};

struct spawn {
    const struct start_request *request;
    const struct configuration *configuration;
    const struct agent_cgroups *cgroups;
    struct resource_limit files; /* RLIMIT_NOFILE as it was before the agent raised its own */
    int input, output, error; /* become 0-2; all of them are 3 or higher */
};

struct spawn_failure {
    int32_t error; /* errno, positive */
    uint32_t stage;
};

/* Becomes the process. Writes a struct spawn_failure to `report` and exits when a step fails; `report` closes on success. */
_Noreturn void spawn_run(const struct spawn *spawn, int report, bool in_cgroup);

#endif
