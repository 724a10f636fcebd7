/* Which step may follow which: nothing may act on the host where it is meant for the sandbox, and nothing may be left half done. Pure. */
#include "plan.h"

#include "agent.h"
#include "kernel.h"

#include <linux/sched.h>

enum place {
    NOWHERE,
    BEFORE_CLONE,
    OUTSIDE,      /* before GO */
    OUTSIDE_OF,   /* after CLONE, before GO: needs the inner process */
    INSIDE,       /* after GO */
    OLD_ROOT,     /* inside, before PIVOT */
    MAKES_ROOT,   /* inside, after PRIVATE, before PIVOT */
    BUILDS_ROOT,  /* inside, with a new root, before PIVOT */
    SETTLED,      /* inside, not between a new root and its PIVOT */
};

struct rule {
    enum place place;
    uint64_t needs; /* the namespaces without which the step would reach the host */
};

static const struct rule rules[PLAN_OPS] = {
    [PLAN_CLONE] = {OUTSIDE, 0},
    [PLAN_IDMAP] = {OUTSIDE_OF, CLONE_NEWUSER},
    [PLAN_TREE] = {OUTSIDE, 0},
    [PLAN_IDMAP_TREE] = {OUTSIDE, 0},
    [PLAN_CGROUP] = {BEFORE_CLONE, 0},
    [PLAN_GO] = {OUTSIDE_OF, 0},
    [PLAN_PRIVATE] = {OLD_ROOT, CLONE_NEWNS},
    [PLAN_SETID] = {INSIDE, 0},
    [PLAN_ROOT_TMPFS] = {MAKES_ROOT, CLONE_NEWNS},
    [PLAN_ROOT_SLOT] = {MAKES_ROOT, CLONE_NEWNS},
    [PLAN_ROOT_OVERLAY] = {MAKES_ROOT, CLONE_NEWNS},
    [PLAN_ROOT_BIND] = {MAKES_ROOT, CLONE_NEWNS},
    [PLAN_TMPFS] = {BUILDS_ROOT, CLONE_NEWNS},
    [PLAN_BIND] = {BUILDS_ROOT, CLONE_NEWNS},
    [PLAN_ATTACH] = {BUILDS_ROOT, CLONE_NEWNS},
    [PLAN_OVERLAY] = {BUILDS_ROOT, CLONE_NEWNS},
    [PLAN_PROC] = {BUILDS_ROOT, CLONE_NEWNS | CLONE_NEWPID},
    [PLAN_DEVPTS] = {BUILDS_ROOT, CLONE_NEWNS},
    [PLAN_MQUEUE] = {BUILDS_ROOT, CLONE_NEWNS | CLONE_NEWIPC},
    [PLAN_BIND_WITHIN] = {BUILDS_ROOT, CLONE_NEWNS},
    [PLAN_MKDIR] = {BUILDS_ROOT, CLONE_NEWNS},
    [PLAN_FILE] = {BUILDS_ROOT, CLONE_NEWNS},
    [PLAN_SYMLINK] = {BUILDS_ROOT, CLONE_NEWNS},
    [PLAN_MASK] = {BUILDS_ROOT, CLONE_NEWNS},
    [PLAN_READ_ONLY] = {BUILDS_ROOT, CLONE_NEWNS},
    [PLAN_REMOUNT_ROOT] = {BUILDS_ROOT, CLONE_NEWNS},
    [PLAN_REMOUNT] = {BUILDS_ROOT, CLONE_NEWNS},
    [PLAN_PIVOT] = {BUILDS_ROOT, CLONE_NEWNS},
    [PLAN_HOSTNAME] = {INSIDE, CLONE_NEWUTS},
    [PLAN_LOOPBACK] = {INSIDE, CLONE_NEWNET},
    [PLAN_RLIMIT] = {INSIDE, 0},
    [PLAN_SYSCTL] = {OLD_ROOT, 0},
    [PLAN_TRANSPARENT] = {INSIDE, CLONE_NEWNET},
    [PLAN_CAPABILITIES] = {INSIDE, 0},
    [PLAN_NO_NEW_PRIVS] = {INSIDE, 0},
    [PLAN_LANDLOCK] = {SETTLED, 0},
    [PLAN_LANDLOCK_PATH] = {SETTLED, 0},
    [PLAN_LANDLOCK_APPLY] = {SETTLED, 0},
    [PLAN_AGENT] = {SETTLED, 0},
    [PLAN_PROGRAM] = {SETTLED, CLONE_NEWPID},
};

static bool is_in_place(const struct plan_order *order, enum place place)
{
    switch (place) {
    case BEFORE_CLONE: return !order->cloned;
    case OUTSIDE: return !order->inside;
    case OUTSIDE_OF: return order->cloned && !order->inside;
    case INSIDE: return order->inside;
    case OLD_ROOT: return order->inside && !order->pivoted;
    case MAKES_ROOT: return order->inside && order->is_private && !order->pivoted;
    case BUILDS_ROOT: return order->inside && order->rooted && !order->pivoted;
    case SETTLED: return order->inside && order->rooted == order->pivoted;
    default: return false;
    }
}

/* Marks the slot; false if it was marked already. */
static bool mark_slot(uint64_t *slots, uint64_t slot)
{
    uint64_t bit = 1ull << slot % 64;
    if (slots[slot / 64] & bit)
        return false;
    slots[slot / 64] |= bit;
    return true;
}

static bool use_slot(struct plan_order *order, uint64_t slot)
{
    return (order->slots_filled[slot / 64] >> slot % 64 & 1) && mark_slot(order->slots_used, slot);
}

static bool accept_cgroup(struct plan_order *order, uint64_t kind)
{
    bool *taken = kind == 2 ? &order->cgroup_v2 : &order->cgroup_first, again = *taken;
    if (kind == 1)
        return ++order->cgroups_v1 <= sizeof((struct agent_cgroups *)0)->v1_tasks / sizeof(int);
    *taken = true;
    return !again;
}

static bool has_prefix(const char *text, const char *prefix)
{
    size_t n = strlen(prefix);
    return strlen(text) >= n && memcmp(text, prefix, n) == 0;
}

/* Only settings of a namespace that the sandbox has for itself: any other is the host's. */
static bool accept_sysctl(const struct plan_order *order, const char *path)
{
    static const struct {
        const char *prefix;
        uint64_t needs;
    } settings[] = {
        {"net/", CLONE_NEWNET},           {"fs/mqueue/", CLONE_NEWIPC}, {"kernel/msg", CLONE_NEWIPC},
        {"kernel/sem", CLONE_NEWIPC},     {"kernel/shm", CLONE_NEWIPC}, {"kernel/domainname", CLONE_NEWUTS},
        {"user/", CLONE_NEWUSER},
    };
    for (unsigned i = 0; i < sizeof settings / sizeof *settings; i++)
        if (has_prefix(path, settings[i].prefix))
            return (order->clone_flags & settings[i].needs) != 0;
    return false;
}

static bool accept_landlock(struct plan_order *order, uint32_t op)
{
    bool open = order->ruleset;
    if (op == PLAN_LANDLOCK_PATH)
        return open;
    order->ruleset = op == PLAN_LANDLOCK;
    return op == PLAN_LANDLOCK ? !open : open && order->no_new_privs;
}

static bool accept_clone(struct plan_order *order, uint64_t flags)
{
    bool first = !order->cloned;
    order->cloned = true;
    order->clone_flags = flags;
    return first;
}

/* What the step itself asks for beyond its place, and what it changes for those after it. */
static bool accept_effect(struct plan_order *order, const struct plan_step *step)
{
    const struct plan_value *arguments = step->arguments;
    switch (step->op) {
    case PLAN_CLONE: return accept_clone(order, arguments[0].number);
    case PLAN_IDMAP: return !order->mapped && (order->mapped = true);
    case PLAN_TREE: return (!arguments[4].number || order->mapped) && mark_slot(order->slots_filled, arguments[0].number);
    case PLAN_IDMAP_TREE: return mark_slot(order->slots_filled, arguments[0].number);
    case PLAN_CGROUP: return accept_cgroup(order, arguments[0].number);
    case PLAN_GO: return order->inside = true;
    case PLAN_PRIVATE: return order->is_private = true;
    case PLAN_ROOT_SLOT: return use_slot(order, arguments[0].number) && (order->rooted = true);
    case PLAN_ROOT_TMPFS:
    case PLAN_ROOT_OVERLAY:
    case PLAN_ROOT_BIND: return order->rooted = true;
    case PLAN_ATTACH: return use_slot(order, arguments[0].number);
    case PLAN_PIVOT: return order->pivoted = true;
    case PLAN_SYSCTL: return accept_sysctl(order, arguments[0].text);
    case PLAN_NO_NEW_PRIVS: return order->no_new_privs = true;
    case PLAN_LANDLOCK:
    case PLAN_LANDLOCK_PATH:
    case PLAN_LANDLOCK_APPLY: return accept_landlock(order, step->op);
    case PLAN_AGENT:
    case PLAN_PROGRAM: return !order->ruleset && (order->finished = true);
    default: return true;
    }
}

bool plan_order_accepts(struct plan_order *order, const struct plan_step *step)
{
    const struct rule *rule = &rules[step->op];
    return !order->finished && is_in_place(order, rule->place) && (order->clone_flags & rule->needs) == rule->needs &&
           accept_effect(order, step);
}
