/*
 * The supervisor: one process per started command, between the agent and the command's main process.
 *
 * As a subreaper it stays the ancestor of everything that the command starts, however it hides (setsid, double fork), so that it can end
 * all of it. It speaks with the agent over a socket of fixed-size messages. When the agent is gone it ends the tree and itself.
 */
#ifndef AK_SUPERVISOR_H
#define AK_SUPERVISOR_H

#include "spawn.h"

enum note_kind {
    NOTE_STARTED = 1, /* pid */
    NOTE_FAILED,      /* error, stage */
    NOTE_ENDED,       /* the main process: status, times, children left (0: the supervisor exits) */
    NOTE_GONE,        /* no descendant is left; the supervisor exits */
    NOTE_RELEASED,    /* descendants are left to PID 1; the supervisor exits */
    NOTE_SIGNALLED,   /* answer to ORDER_SIGNAL: id, error */
};

struct note { /* supervisor to agent */
    uint32_t kind;
    int32_t error; /* errno, positive */
    uint32_t stage, status, pid, children;
    uint64_t id, user_us, system_us, max_rss_bytes;
};

enum order_kind { ORDER_SIGNAL = 1, ORDER_KILL, ORDER_RELEASE, ORDER_START };

struct order { /* agent to supervisor */
    uint32_t kind, signal, whole_tree; /* of ORDER_START, `signal` is the length of the request (spare.h) */
    uint32_t zero;
    uint64_t id;
};

struct supervisor {
    int control, signals, report;
    int main; /* pid, 0: reaped */
    int proc;
    bool started, failed;
};

/*
 * Both run in the forked supervisor. The first makes it one, with `control` its end of the socket and `proc` the descriptor of /proc or
 * -1; of all other descriptors only those of `spawn` stay open. The second starts the command.
 */
void supervisor_begin(struct supervisor *s, const struct spawn *spawn, int control, int proc);
_Noreturn void supervisor_run(struct supervisor *s, const struct spawn *spawn);

#endif
