/* What /proc says about processes. */
#ifndef AK_PROCESS_TABLE_H
#define AK_PROCESS_TABLE_H

#include "sys.h"

struct process_stat {
    int parent;
    char state; /* as in /proc/PID/stat: R, S, D, T, t, Z, X ... */
    uint64_t resident_pages;
};

/* Opens /proc if it is one and shows this process's own pid namespace; else -1. The descriptor is the `proc` of all that follows. */
int process_table_open(void);
bool process_table_stat(int proc, int pid, struct process_stat *stat);
/* Whether `pid` descends from `ancestor`; -1 when there is no such process. */
int process_table_descends(int proc, int pid, int ancestor);

/* Numbers in a directory (pids, thread ids) in the kernel's order. */
struct pid_reader {
    int fd;
    size_t at, filled;
    _Alignas(8) char buffer[4096];
};

/* Opens `path` beneath `proc`; false if it cannot be read. */
bool pid_reader_open(struct pid_reader *reader, int proc, const char *path);
/* The next number; 0 at the end, when the reader is closed. */
int pid_reader_next(struct pid_reader *reader);

/* Calls `visit` for each child of one thread of a process; false where the kernel does not list children. */
bool process_table_children(int proc, int pid, int thread, void (*visit)(void *context, int child), void *context);

#endif
