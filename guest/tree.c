/* Tree kill: stop everything first, so that nothing can fork away from the kill, then kill everything. */
#include "tree.h"

#include "clock.h"
#include "descriptor.h"

#include <linux/magic.h>
#include <linux/wait.h>

#define STOP_PASSES 64
#define PID_USUAL 32768
#define PID_LIMIT 4194304
#define ENTRIES_MAX (1u << 22)

struct directory_entry {
    uint64_t inode;
    int64_t offset;
    uint16_t length;
    uint8_t type;
    char name[];
};

enum mark { MARK_UNKNOWN, MARK_INSIDE, MARK_OUTSIDE };

/* A workload could have made a /proc of its own, or an operator bound another namespace's: both would name the wrong processes. */
int tree_open_proc(void)
{
    long status[32] = {0}; /* struct statfs: f_type comes first */
    char link[24];
    uint64_t pid = 0;
    sysret proc = SYS(openat, AT_FDCWD, "/proc", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), n;
    if (proc < 0)
        return -1;
    n = SYS(readlinkat, proc, "self", link, sizeof link - 1);
    if (n > 0)
        link[n] = '\0';
    if (n > 0 && SYS(fstatfs, proc, status) == 0 && status[0] == PROC_SUPER_MAGIC && ak_parse_u64(link, 10, &pid) && pid == (uint64_t)SYS(getpid))
        return (int)proc;
    (void)SYS(close, proc);
    return -1;
}

bool tree_read_stat(int proc, const char *pid, char *text, size_t room, const char **after_name)
{
    char path[32];
    size_t length = strlen(pid);
    sysret fd, n;
    if (length > 20)
        return false;
    memcpy(path, pid, length);
    memcpy(path + length, "/stat", 6);
    fd = SYS(openat, proc, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    n = SYS(read, fd, text, room - 1);
    (void)SYS(close, fd);
    if (n <= 0)
        return false;
    text[n] = '\0';
    /* The command's name may hold anything, also parentheses: the last one counts. */
    for (const char *at = text + n; at > text; at--)
        if (*at == ')' && at[1] == ' ') {
            *after_name = at + 2;
            return true;
        }
    return false;
}

static bool tree_grow(struct tree *tree)
{
    size_t room = tree->room ? tree->room * 2 : 512;
    struct tree_entry *entries;
    if (room > ENTRIES_MAX || !(entries = ak_map(room * sizeof *entries)))
        return false;
    if (tree->entries) {
        memcpy(entries, tree->entries, tree->count * sizeof *entries);
        ak_unmap(tree->entries, tree->room * sizeof *entries);
    }
    tree->entries = entries;
    tree->room = room;
    return true;
}

/* Keeps the entries in the order of pids, which is the order in which /proc lists them. */
static void tree_add(struct tree *tree, struct tree_entry entry)
{
    size_t at = tree->count;
    if (tree->count == tree->room && !tree_grow(tree))
        return;
    for (; at > 0 && tree->entries[at - 1].pid > entry.pid; at--)
        tree->entries[at] = tree->entries[at - 1];
    tree->entries[at] = entry;
    tree->count++;
}

static void tree_add_process(struct tree *tree, const char *name)
{
    char text[512];
    const char *rest;
    uint64_t pid;
    struct tree_entry entry = {0};
    if (!ak_parse_u64(name, 10, &pid) || !tree_read_stat(tree->proc, name, text, sizeof text, &rest) || !rest[0])
        return;
    entry.pid = (int)pid;
    entry.state = rest[0];
    for (rest += 2; *rest >= '0' && *rest <= '9'; rest++)
        entry.parent = entry.parent * 10 + (*rest - '0');
    tree_add(tree, entry);
}

static struct tree_entry *tree_find(struct tree *tree, int pid)
{
    size_t low = 0, high = tree->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (tree->entries[middle].pid == pid)
            return &tree->entries[middle];
        if (tree->entries[middle].pid < pid)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static uint8_t mark_of(const struct tree *tree, const struct tree_entry *entry)
{
    if (entry->pid == tree->root)
        return MARK_OUTSIDE;
    for (unsigned i = 0; i < tree->spared_count; i++)
        if (entry->pid == tree->spared[i])
            return MARK_OUTSIDE;
    return entry->parent == tree->root ? MARK_INSIDE : MARK_UNKNOWN;
}

/* Walks up from `entry` to the first process whose place is known and marks the way; each process is walked over once. */
static void tree_mark(struct tree *tree, struct tree_entry *entry)
{
    struct tree_entry *at = entry;
    uint8_t mark = MARK_UNKNOWN;
    size_t steps = 0;
    for (; at && steps <= tree->count; steps++) {
        mark = at->mark ? at->mark : mark_of(tree, at);
        if (mark)
            break;
        at = tree_find(tree, at->parent);
    }
    if (!mark)
        mark = MARK_OUTSIDE;
    for (at = entry; at && !at->mark; at = tree_find(tree, at->parent)) {
        uint8_t own = mark_of(tree, at);
        at->mark = own ? own : mark;
    }
}

static void tree_read_directory(struct tree *tree, int fd)
{
    _Alignas(8) char buffer[16384];
    sysret n;
    while ((n = SYS(getdents64, fd, buffer, sizeof buffer)) > 0)
        for (sysret at = 0; at < n;) {
            const struct directory_entry *entry = (const void *)(buffer + at);
            if (entry->name[0] >= '1' && entry->name[0] <= '9')
                tree_add_process(tree, entry->name);
            at += entry->length;
        }
}

bool tree_scan(struct tree *tree)
{
    sysret fd;
    tree->count = 0;
    tree->fingerprint = 0;
    /* Opened anew: the agent and its supervisors share the descriptor of /proc and with it the position. */
    if (tree->proc < 0 || (fd = SYS(openat, tree->proc, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        return false;
    tree_read_directory(tree, (int)fd);
    (void)SYS(close, fd);
    for (size_t i = 0; i < tree->count; i++) {
        tree_mark(tree, &tree->entries[i]);
        if (tree->entries[i].mark == MARK_INSIDE)
            tree->fingerprint = (tree->fingerprint + (uint64_t)tree->entries[i].pid) * 0x9e3779b97f4a7c15u;
    }
    return true;
}

bool tree_contains(struct tree *tree, int pid)
{
    struct tree_entry *entry = tree_find(tree, pid);
    return entry && entry->mark == MARK_INSIDE;
}

bool tree_knows(struct tree *tree, int pid)
{
    return tree_find(tree, pid) != NULL;
}

static bool is_spared(const struct tree *tree, int pid)
{
    for (unsigned i = 0; i < tree->spared_count; i++)
        if (tree->spared[i] == pid)
            return true;
    return false;
}

/* Without /proc: wait knows for each pid whether it is a child of ours, and does not have to take it. */
static unsigned children_signal(const struct tree *tree, int signal, int last)
{
    _Alignas(8) char info[128];
    unsigned count = 0;
    for (int pid = 2; pid <= last; pid++)
        if (SYS(waitid, P_PID, pid, info, WEXITED | WNOHANG | WNOWAIT | __WALL, NULL) == 0 && !is_spared(tree, pid))
            count += SYS(kill, pid, signal) == 0;
    return count;
}

static unsigned every_child_signal(const struct tree *tree, int signal)
{
    unsigned count = children_signal(tree, signal, PID_USUAL);
    return count ? count : children_signal(tree, signal, PID_LIMIT);
}

unsigned tree_signal(struct tree *tree, int signal)
{
    unsigned count = 0;
    if (!tree_scan(tree))
        return every_child_signal(tree, signal);
    for (size_t i = 0; i < tree->count; i++)
        if (tree->entries[i].mark == MARK_INSIDE)
            count += SYS(kill, tree->entries[i].pid, signal) == 0;
    return count;
}

/* Stopped, traced, dead or in the kernel: none of them forks. A dead leader ('Z') may have living threads; the signal reaches them all the same. */
static bool is_running(char state)
{
    return state == 'R' || state == 'S';
}

bool tree_stop(struct tree *tree)
{
    uint64_t before = tree->fingerprint;
    bool running = false;
    if (!tree_scan(tree))
        return true;
    for (size_t i = 0; i < tree->count; i++) {
        if (tree->entries[i].mark != MARK_INSIDE)
            continue;
        running = running || is_running(tree->entries[i].state);
        (void)SYS(kill, tree->entries[i].pid, SIGSTOP);
    }
    return !running && tree->fingerprint == before;
}

unsigned tree_kill(struct tree *tree)
{
    unsigned alive = 0;
    if (!tree_scan(tree))
        return every_child_signal(tree, SIGKILL);
    for (size_t i = 0; i < tree->count; i++) {
        if (tree->entries[i].mark != MARK_INSIDE)
            continue;
        (void)SYS(kill, tree->entries[i].pid, SIGKILL);
        alive += tree->entries[i].state != 'Z' && tree->entries[i].state != 'X';
    }
    return alive;
}

unsigned tree_fell(struct tree *tree)
{
    tree->fingerprint = 0;
    for (int pass = 0; pass < STOP_PASSES && !tree_stop(tree); pass++)
        ;
    return tree_kill(tree);
}

void tree_free(struct tree *tree)
{
    if (tree->entries)
        ak_unmap(tree->entries, tree->room * sizeof *tree->entries);
    tree->entries = NULL;
    tree->count = tree->room = 0;
}
