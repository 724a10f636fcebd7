/* Who the agent is and what it may do. */
#include "sandbox.h"

#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/securebits.h>

#define CAPABILITY_NUMBERS 64

struct capability_sets {
    struct __user_cap_header_struct header;
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
};

static sysret raise_permitted(void)
{
    struct capability_sets sets = {.header = {.version = _LINUX_CAPABILITY_VERSION_3}};
    sysret result = SYS(capget, &sets.header, sets.data);
    for (unsigned i = 0; i < _LINUX_CAPABILITY_U32S_3; i++)
        sets.data[i].effective = sets.data[i].permitted;
    return result < 0 ? result : SYS(capset, &sets.header, sets.data);
}

static sysret become(uint64_t uid, uint64_t gid)
{
    sysret result = SYS(setgroups, 0, NULL);
    if (result < 0 && result != -EPERM) /* EPERM: not allowed here, as in a plain user's namespace */
        return result;
    result = SYS(setresgid, gid, gid, gid);
    return result < 0 ? result : SYS(setresuid, uid, uid, uid);
}

/* Later steps need the capabilities that the inner process has, so they are kept over the change of user. */
sysret step_setid(struct sandbox *sandbox, const struct plan_step *step)
{
    sysret result = SYS(prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
    (void)sandbox;
    if (result >= 0)
        result = become(step->arguments[0].number, step->arguments[1].number);
    if (result >= 0)
        result = raise_permitted();
    if (result >= 0)
        result = SYS(prctl, PR_SET_KEEPCAPS, 0, 0, 0, 0);
    return result;
}

/* Empties the bounding set, whose size depends on the kernel: EINVAL marks its end. */
static sysret empty_bounding_set(void)
{
    sysret result = 0;
    for (unsigned number = 0; number < CAPABILITY_NUMBERS && result >= 0; number++)
        result = SYS(prctl, PR_CAPBSET_DROP, number, 0, 0, 0);
    return result == -EINVAL ? 0 : result;
}

/*
 * uid 0 means nothing to execve (NOROOT), nobody keeps capabilities by asking, and all of it is locked. The kernel's fix-up on a change of user stays on, and
 * locked: a child of the agent that leaves uid 0 loses its capabilities even if it forgot to drop them.
 */
static sysret lock_securebits(void)
{
    return SYS(prctl, PR_SET_SECUREBITS,
               SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
                   SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED,
               0, 0, 0);
}

sysret step_capabilities(struct sandbox *sandbox, const struct plan_step *step)
{
    uint32_t low = (uint32_t)step->arguments[0].number, high = (uint32_t)(step->arguments[0].number >> 32);
    struct capability_sets sets = {
        .header = {.version = _LINUX_CAPABILITY_VERSION_3},
        .data = {{.permitted = low, .effective = low}, {.permitted = high, .effective = high}},
    };
    sysret result = empty_bounding_set();
    (void)sandbox;
    if (result >= 0)
        result = SYS(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    if (result >= 0)
        result = lock_securebits();
    if (result >= 0)
        result = SYS(capset, &sets.header, sets.data);
    return result;
}

sysret step_no_new_privs(struct sandbox *sandbox, const struct plan_step *step)
{
    (void)sandbox, (void)step;
    return SYS(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}
