/* The record of one started command, from START to FORGET. */
#ifndef AK_PROCESS_H
#define AK_PROCESS_H

#include "intake.h"
#include "request.h"
#include "ring.h"
#include "supervisor.h"

#define COMMAND_MAX 512u
#define DRAIN_MS 100u      /* from the end of the main process to the end of what counts as its output */
#define LOOK_MS 100u       /* while a kill lasts: between two looks whether the workload has stopped the supervisor that carries it out */
#define HELD_LOOKS 10u     /* so many of these may find the supervisor waiting for an exec that does not come */
#define GIVE_UP_MS 10000u  /* from a kill to the end of waiting for processes that the kernel does not let die */

enum process_state {
    PROCESS_STARTING,
    PROCESS_RUNNING,
    PROCESS_ENDED,
    PROCESS_FAILED,    /* never ran */
    PROCESS_FORGOTTEN, /* the host has let go, but survivors still write to the pipes */
};

enum cause { CAUSE_ITSELF, CAUSE_TIMEOUT, CAUSE_KILLED, CAUSE_CLIENT_LOST, CAUSE_SUPERVISOR_LOST };

/* What the subscribed host has not been told yet, apart from output. */
enum owed { OWE_STARTED = 1, OWE_RESUMED = 2, OWE_STDIN = 4 };

/* One output stream: a pipe or terminal, read into a ring, sent from there. */
struct outlet {
    int fd; /* -1: at its end */
    bool readable, grown;
    struct ring ring;
    uint64_t sent, sent_most; /* next offset to send on this attach; the highest of all attaches */
    uint64_t stop;            /* end of the command's own output, once known */
    uint64_t until;           /* an ended command's output is sent up to here */
};

struct process {
    uint64_t id;
    unsigned slot;
    enum process_state state;
    uint32_t flags; /* of START */
    uint16_t builtin; /* 0: a program */
    bool terminal, subscribed, active;
    struct process *next_active;

    int supervisor, main; /* pids as seen inside; supervisor 0: reaped */
    int control;
    bool control_readable;
    bool killing, released, supervisor_done, main_ended, stops_known, awaits_sweep, gave_up;
    bool survivors, output_lost, exit_told;
    enum cause cause;

    struct outlet outlets[2];
    int input; /* -1: none, or at its end */
    bool input_writable, line_start;
    struct intake intake;
    uint8_t owed;

    uint64_t timeout_at, drain_at, orphan_at, look_at, give_up_at; /* monotonic ms, 0: not set */
    unsigned held_looks;
    uint64_t started_us, started_unix_ms, ended_order;
    struct note end; /* the main process's status and times */
    uint64_t wall_us;
    uint32_t failure_errno, failure_stage;
    uint32_t command_length;
    uint8_t command[COMMAND_MAX]; /* argv joined by NUL */
};

struct agent;

/* Starts the command of a START frame; 0, or -errno with `*stage`; then there is no record. */
sysret process_start(struct agent *agent, const struct frame *frame, const struct start_request *request, enum stage *stage);

/* Does all that can be done now without waiting: messages of the supervisor, pipes, ends, frames to the host. */
void process_step(struct agent *agent, struct process *p);
/* Puts the record in the queue for process_step(). */
void process_activate(struct agent *agent, struct process *p);
/* Kills the whole tree; the first cause is the one that is told. */
void process_kill(struct agent *agent, struct process *p, enum cause cause);
/* Hands an order to the supervisor; 0 or -errno. */
sysret process_order(const struct process *p, const struct order *order);
/* The supervisor's death was seen by wait. */
void process_supervisor_ended(struct agent *agent, struct process *p);
/* The main process was waited for by the agent, after its supervisor was lost. */
void process_main_reaped(struct process *p, int status);
/* Nothing of the tree of a lost supervisor is left. */
void process_swept(struct agent *agent, struct process *p);
void process_check_deadlines(struct agent *agent, struct process *p);
uint64_t process_next_deadline(const struct process *p);
/* A new attach, or none: the host has to resume. */
void process_unsubscribe(struct agent *agent, struct process *p);
void process_subscribe(struct process *p, uint64_t stdout_offset, uint64_t stderr_offset);
/* Drops an ended record; survivors' pipes are read on. */
void process_forget(struct agent *agent, struct process *p);
bool process_is_over(const struct process *p);

/* pump.c: bytes between descriptors and rings. */
void pump_output(struct process *p, struct outlet *outlet);
void pump_input(struct process *p);
/* Nobody reads the process's input any more. */
void pump_input_closed(struct process *p);
bool pump_has_work(const struct process *p);

/* deliver.c: frames about a process to the attached host. */
void deliver(struct agent *agent, struct process *p);
bool deliver_has_work(const struct agent *agent, const struct process *p);

#endif
