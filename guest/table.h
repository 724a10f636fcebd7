/* All process records: found by id, by slot, and by the supervisor's pid. */
#ifndef AK_TABLE_H
#define AK_TABLE_H

#include "process.h"

#define RUNNING_MAX 1024u
#define ENDED_MAX 1024u
#define SLOTS (RUNNING_MAX + ENDED_MAX)

struct table {
    struct process *slots[SLOTS];
    uint64_t ids[SLOTS];     /* 0: none, or forgotten */
    int supervisors[SLOTS];  /* pids, 0: none */
    unsigned used;           /* slots beyond were never used */
    unsigned running, ended;
    uint64_t order;
};

struct process *table_find(const struct table *table, uint64_t id);
struct process *table_find_supervisor(const struct table *table, int pid);
/* A new, zeroed, running record; NULL: too many run, or no memory. */
struct process *table_add(struct table *table, uint64_t id);
void table_remove(struct table *table, struct process *p);
/* Counts the record as ended; returns the oldest ended record if there are now too many, else NULL. */
struct process *table_mark_ended(struct table *table, struct process *p);

#endif
