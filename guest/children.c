/* Children of the agent: supervisors, and as PID 1 or subreaper every orphan of the sandbox. */
#include "state.h"

#include "clock.h"

#include <linux/wait.h>

#define SWEEP_MS 10        /* between two looks at what is left of a lost tree */
#define SWEEP_SLOW_MS 1000 /* when the kernel does not let it die */
#define SWEEPS_FAST 500
#define STOP_PASSES 64

static void reaped(struct agent *agent, int pid, int status)
{
    struct process *p = table_find_supervisor(&agent->table, pid);
    if (p) {
        process_supervisor_ended(agent, p);
        return;
    }
    for (unsigned i = 0; i < agent->table.used && agent->sweeping; i++) {
        p = agent->table.slots[i];
        if (p && p->awaits_sweep && p->main == pid)
            process_main_reaped(p, status);
    }
}

void children_reap(struct agent *agent)
{
    for (;;) {
        int status = 0;
        sysret pid = SYS(wait4, -1, &status, WNOHANG | __WALL, NULL);
        if (pid <= 0 && pid != -EINTR)
            return;
        if (pid > 0)
            reaped(agent, (int)pid, status);
    }
}

void agent_sweep(struct agent *agent)
{
    agent->sweeping = true;
    agent->sweep_passes = agent->sweeps = 0;
    agent->sweep_at = agent->now_ms;
}

/* One pass over the processes that no living supervisor looks after; a pass per turn, so that the agent stays responsive. */
void children_sweep(struct agent *agent)
{
    struct tree *tree = &agent->sweep;
    *tree = (struct tree){
        .proc = agent->proc,
        .root = (int)SYS(getpid),
        .spared = agent->table.supervisors,
        .spared_count = agent->table.used,
        .entries = tree->entries,
        .room = tree->room,
        .fingerprint = tree->fingerprint,
    };
    if (agent->sweep_passes++ < STOP_PASSES && !tree_stop(tree))
        return;
    agent->sweep_passes = 0;
    agent->sweep_at = agent->now_ms + (agent->sweeps++ < SWEEPS_FAST ? SWEEP_MS : SWEEP_SLOW_MS);
    if (tree_kill(tree))
        return;
    children_reap(agent);
    agent->sweeping = false;
    tree_free(tree);
    for (unsigned i = 0; i < agent->table.used; i++)
        if (agent->table.slots[i])
            process_swept(agent, agent->table.slots[i]);
}
