/* Everything that the agent's one thread knows. */
#ifndef AK_STATE_H
#define AK_STATE_H

#include "agent.h"
#include "inlet.h"
#include "link.h"
#include "result.h"
#include "spare.h"
#include "table.h"
#include "tree.h"
#include "tunnel.h"

#define RETRY_MS 1000u
#define LINKS 4u /* the attached one, and connections that have not said HELLO yet */

enum source { SOURCE_LISTEN, SOURCE_SIGNALS, SOURCE_LINK, SOURCE_CONTROL, SOURCE_STDOUT, SOURCE_STDERR, SOURCE_STDIN, SOURCE_INLET, SOURCE_TUNNEL };

struct agent {
    int epoll, listen, signals;
    int proc; /* as process_table_open() says; -1: none */
    int null; /* /dev/null, or the reading end of a pipe that nobody writes to */
    bool is_init, can_switch_user;
    struct agent_cgroups cgroups;
    struct resource_limit files; /* as inherited */
    uint8_t boot_id[EPOCH_SIZE];

    bool configured;
    struct configuration configuration, candidate;
    struct start_request request;

    struct link links[LINKS];
    struct link *current; /* the attached one, or NULL */
    uint64_t link_order;
    struct table table;
    struct spare spare;
    struct results results;
    struct process *active_first, *active_last;
    struct inlets inlets;
    struct tunnels tunnels;
    bool tunnels_first; /* commands had the last frame of the part of the output buffer that they share */

    uint64_t now_ms, started_ms;
    uint64_t earliest_ms; /* no deadline is before it; 0: none */
    uint64_t alone_until_ms; /* without a host by then, the sandbox ends; 0: it has one, or waits for ever */
    uint64_t retry_ms;    /* accept again, read a lost device again; 0: not set */
    bool sweeping;        /* the tree of a lost supervisor is being ended */
    bool sweeping_round;
    unsigned sweep_passes, sweeps;
    uint64_t sweep_at;
    struct tree sweep;
    bool ending;
};

/* Registers a descriptor, edge-triggered for everything but the listening socket. */
sysret agent_watch(const struct agent *agent, int fd, enum source source, unsigned slot, uint32_t events);
/* Sees to it that the event loop looks at deadlines at `at_ms`. */
void agent_wake_at(struct agent *agent, uint64_t at_ms);
/* prepare.c: everything but the stream to the host; false if the agent cannot work here. */
bool agent_prepare(struct agent *agent, const struct agent_cgroups *cgroups);

/* hosts.c */
void hosts_add(struct agent *agent, int in, int out, bool boundless);
void hosts_accept(struct agent *agent);
/* Takes and carries out what hosts sent; returns whether there may be more to do without waiting. */
bool hosts_serve(struct agent *agent);
/* Starts the time after which a sandbox without a host ends. */
void hosts_await(struct agent *agent);
/* Tries again what failed for want of descriptors, or because a device had nobody at its other end. */
void hosts_retry(struct agent *agent);
/* The attach is over; closes the connection unless it has no boundaries. */
void agent_drop(struct agent *agent, struct link *link);

/* children.c */
void children_reap(struct agent *agent);
/* Starts ending all that is not under a living supervisor. */
void agent_sweep(struct agent *agent);
/* One step of it: a pass over the process table, so that the agent stays responsive. */
void children_sweep(struct agent *agent);

/* request_handlers.c: carries out one frame of the host. */
void handle_frame(struct agent *agent, const struct frame *frame);
void reply_done(struct agent *agent, uint64_t id);
void reply_failed(struct agent *agent, uint64_t id, unsigned error, enum stage stage, const char *text);

/* stats.c: the answers to LIST and STATS. */
void reply_list(struct agent *agent, uint64_t id);
void reply_stats(struct agent *agent, uint64_t id);

#endif
