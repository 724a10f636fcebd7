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
    if (pid == agent->spare.pid)
        spare_died(agent);
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
    agent->sweeps = 0;
    agent->sweeping_round = false;
    agent->sweep_at = agent->now_ms;
}

static void sweep_done(struct agent *agent)
{
    children_reap(agent);
    agent->sweeping = false;
    tree_free(&agent->sweep);
    for (unsigned i = 0; i < agent->table.used; i++)
        if (agent->table.slots[i])
            process_swept(agent, agent->table.slots[i]);
}

static void sweep_begin(struct agent *agent)
{
    struct tree *tree = &agent->sweep;
    tree->proc = agent->proc;
    tree->root = (int)SYS(getpid);
    tree->spared = agent->table.supervisors;
    tree->spared_count = agent->table.used;
    agent->sweep_passes = 0;
    agent->sweeping_round = true;
    (void)tree_begin(tree, agent->proc < 0 ? SIGKILL : SIGSTOP);
}

/* One pass over the processes that no living supervisor looks after. */
void children_sweep(struct agent *agent)
{
    struct tree *tree = &agent->sweep;
    unsigned found;
    if (!agent->sweeping_round)
        sweep_begin(agent);
    tree->spared_count = agent->table.used;
    found = tree->proc < 0 || tree->seen ? tree_pass(tree) : 0;
    if (tree->proc >= 0) {
        if (found && ++agent->sweep_passes < STOP_PASSES)
            return;
        found = tree_kill_found(tree);
    }
    agent->sweeping_round = false;
    agent->sweep_at = agent->now_ms + (agent->sweeps++ < SWEEPS_FAST ? SWEEP_MS : SWEEP_SLOW_MS);
    if (found == 0)
        sweep_done(agent);
}
