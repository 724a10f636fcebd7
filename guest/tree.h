/*
 * The descendants of a process, and signals to all of them.
 *
 * They are found through /proc: from parent to child where the kernel lists children, else by everyone's parent. Each is signalled at the
 * moment when it is found: a process that forks and exits again and again would be gone by the end of a longer look.
 *
 * Where there is no /proc, the direct children are found by asking wait for every pid. As the caller is a subreaper, the children of a killed
 * child become its own, so that killing children again and again ends the whole tree - slower, and a fork bomb may outrun it.
 */
#ifndef AK_TREE_H
#define AK_TREE_H

#include "process_table.h"

struct tree {
    int proc; /* as process_table_open() says; -1: none */
    int root; /* the descendants of this process, without itself */
    const int *spared; /* these pids and their descendants are left alone */
    unsigned spared_count;

    int signal;
    bool by_parent; /* the kernel does not list children */
    uint8_t *seen;  /* bit per pid: signalled in this round */
    int *found;     /* pids of this round */
    size_t count, room;
};

/* Begins a round: every descendant is signalled once until the next one begins. False without memory. */
bool tree_begin(struct tree *tree, int signal);
/* Looks once for descendants; returns how many new ones were found and signalled. Without /proc: all direct children, each time. */
unsigned tree_pass(struct tree *tree);
/* One round of `signal` for all; returns how many got it. */
unsigned tree_signal(struct tree *tree, int signal);
/* SIGKILL for all that the round found; returns how many were alive (not zombies). */
unsigned tree_kill_found(struct tree *tree);
/* SIGSTOP until nothing new is found, so that nothing can fork away, then SIGKILL; returns how many were alive. To be repeated until none is. */
unsigned tree_fell(struct tree *tree);
void tree_free(struct tree *tree);

#endif
