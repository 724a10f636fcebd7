/*
 * The descendants of a process, found through /proc, and signals to all of them.
 *
 * Where there is no /proc, the direct children are found by asking wait for every pid. As the caller is a subreaper, the children of a killed
 * child become its own, so that killing children again and again ends the whole tree - slower, and a fork bomb may outrun it.
 */
#ifndef AK_TREE_H
#define AK_TREE_H

#include "sys.h"

struct tree_entry {
    int pid, parent;
    char state; /* as in /proc/PID/stat */
    uint8_t mark;
};

struct tree {
    int proc; /* descriptor of /proc, -1: none */
    int root; /* the descendants of this process, without itself */
    const int *spared; /* these and their descendants are left alone */
    unsigned spared_count;
    struct tree_entry *entries;
    size_t count, room;
    uint64_t fingerprint; /* of the descendants that the last scan found */
};

/* Opens /proc if it is one and shows this process's own pid namespace; else -1. */
int tree_open_proc(void);
/* Reads the process table; false without /proc. */
bool tree_scan(struct tree *tree);
/* Both of the last scan: whether the process is a descendant, and whether it is there at all. */
bool tree_contains(struct tree *tree, int pid);
bool tree_knows(struct tree *tree, int pid);
/* Sends `signal` once to each descendant; returns how many got it. Without /proc: the direct children. */
unsigned tree_signal(struct tree *tree, int signal);
/* One pass of SIGSTOP; true when nothing in the tree ran and nothing new was found. */
bool tree_stop(struct tree *tree);
/* One pass of SIGKILL; returns how many were alive (not zombies). */
unsigned tree_kill(struct tree *tree);
/* SIGSTOP passes until nothing moves, then SIGKILL; returns how many were alive. Call again until nothing is left. */
unsigned tree_fell(struct tree *tree);
void tree_free(struct tree *tree);
/* Reads field `number` (3: state ...) of /proc/PID/stat; used by the statistics too. */
bool tree_read_stat(int proc, const char *pid, char *text, size_t room, const char **after_name);

#endif
