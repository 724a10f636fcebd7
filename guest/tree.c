/* Tree kill: stop everything first, so that nothing can fork away from the kill, then kill everything. */
#include "tree.h"

#include "clock.h"

#include <linux/mman.h>
#include <linux/wait.h>

#define PASSES 256
#define PID_USUAL 32768
#define PID_LIMIT 4194304 /* the kernel's own limit */
#define SEEN_BYTES (PID_LIMIT / 8)
#define FOUND_MAX (PID_LIMIT)

static bool is_spared(const struct tree *tree, int pid)
{
    for (unsigned i = 0; i < tree->spared_count; i++)
        if (tree->spared[i] == pid)
            return true;
    return false;
}

static bool is_seen(const struct tree *tree, int pid)
{
    return pid > 0 && pid < PID_LIMIT && tree->seen[pid / 8] & 1u << pid % 8;
}

static bool has_room(struct tree *tree)
{
    size_t room = tree->room ? tree->room * 2 : 1024;
    int *found;
    if (tree->count < tree->room)
        return true;
    if (room > FOUND_MAX || !(found = ak_map(room * sizeof *found)))
        return false;
    if (tree->found) {
        memcpy(found, tree->found, tree->count * sizeof *found);
        ak_unmap(tree->found, tree->room * sizeof *found);
    }
    tree->found = found;
    tree->room = room;
    return true;
}

/* A descendant: signalled at once, if it was not in this round. */
static void visit(void *context, int pid)
{
    struct tree *tree = context;
    if (pid <= 1 || pid >= PID_LIMIT || pid == tree->root || is_seen(tree, pid) || is_spared(tree, pid) || !has_room(tree))
        return;
    tree->seen[pid / 8] |= (uint8_t)(1u << pid % 8);
    tree->found[tree->count++] = pid;
    (void)SYS(kill, pid, tree->signal);
}

/* The children of all threads of a process. */
static void visit_children(struct tree *tree, int pid)
{
    struct pid_reader threads;
    char path[32];
    size_t n = ak_format_u64(path, (uint64_t)pid);
    int thread;
    memcpy(path + n, "/task", 6);
    if (!pid_reader_open(&threads, tree->proc, path))
        return;
    while ((thread = pid_reader_next(&threads)) > 0)
        (void)process_table_children(tree->proc, pid, thread, visit, tree);
}

/* From the root down; what is found on the way is looked at in the same pass. */
static void pass_by_children(struct tree *tree)
{
    visit_children(tree, tree->root);
    for (size_t i = 0; i < tree->count; i++)
        visit_children(tree, tree->found[i]);
}

/* Everyone whose parent is in the tree. A child with a lower pid than its parent is found by the next pass. */
static void pass_by_parent(struct tree *tree)
{
    struct pid_reader processes;
    struct process_stat stat;
    int pid;
    if (!pid_reader_open(&processes, tree->proc, "."))
        return;
    while ((pid = pid_reader_next(&processes)) > 0)
        if (process_table_stat(tree->proc, pid, &stat) && (stat.parent == tree->root || is_seen(tree, stat.parent)))
            visit(tree, pid);
}

/* Without /proc: wait knows for each pid whether it is a child of ours, and does not have to take it. */
static unsigned pass_by_wait(const struct tree *tree, int last)
{
    _Alignas(8) char info[128];
    unsigned count = 0;
    for (int pid = 2; pid <= last; pid++)
        if (SYS(waitid, P_PID, pid, info, WEXITED | WNOHANG | WNOWAIT | __WALL, NULL) == 0 && !is_spared(tree, pid))
            count += SYS(kill, pid, tree->signal) == 0;
    return count;
}

static void ignore_child(void *context, int child)
{
    (void)context;
    (void)child;
}

bool tree_begin(struct tree *tree, int signal)
{
    tree->signal = signal;
    tree->count = 0;
    if (tree->proc < 0)
        return true;
    if (!tree->seen)
        tree->seen = ak_map(SEEN_BYTES);
    else
        (void)SYS(madvise, tree->seen, SEEN_BYTES, MADV_DONTNEED); /* zero again */
    tree->by_parent = !process_table_children(tree->proc, tree->root, tree->root, ignore_child, NULL);
    return tree->seen != NULL;
}

unsigned tree_pass(struct tree *tree)
{
    size_t before = tree->count;
    if (tree->proc < 0) {
        unsigned count = pass_by_wait(tree, PID_USUAL);
        return count ? count : pass_by_wait(tree, PID_LIMIT);
    }
    if (tree->by_parent)
        pass_by_parent(tree);
    else
        pass_by_children(tree);
    return (unsigned)(tree->count - before);
}

unsigned tree_signal(struct tree *tree, int signal)
{
    unsigned count = 0, found;
    if (!tree_begin(tree, signal))
        return 0;
    for (int pass = 0; pass < PASSES && (found = tree_pass(tree)) > 0; pass++) {
        count += found;
        if (tree->proc < 0)
            break;
    }
    return count;
}

/* All that was found is killed, whoever its parent is by now. */
unsigned tree_kill_found(struct tree *tree)
{
    struct process_stat stat;
    unsigned alive = 0;
    for (size_t i = 0; i < tree->count; i++) {
        /* A dead leader ('Z') may have living threads: the signal reaches them, and the next round tells. */
        if (process_table_stat(tree->proc, tree->found[i], &stat) && stat.state != 'Z' && stat.state != 'X')
            alive++;
        (void)SYS(kill, tree->found[i], SIGKILL);
    }
    return alive;
}

unsigned tree_fell(struct tree *tree)
{
    if (tree->proc < 0)
        return tree_signal(tree, SIGKILL);
    (void)tree_signal(tree, SIGSTOP);
    return tree_kill_found(tree);
}

void tree_free(struct tree *tree)
{
    if (tree->found)
        ak_unmap(tree->found, tree->room * sizeof *tree->found);
    if (tree->seen)
        ak_unmap(tree->seen, SEEN_BYTES);
    tree->found = NULL;
    tree->seen = NULL;
    tree->count = tree->room = 0;
}
