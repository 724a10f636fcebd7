/* The network namespace, made outside for the sandbox's user namespace and entered inside. */
#include "network.h"

#include "handover.h"
#include "userns.h"

#include <linux/fcntl.h>
#include <linux/sched.h>

sysret network_prepare(struct sandbox *sandbox)
{
    uint64_t both = CLONE_NEWUSER | CLONE_NEWNET;
    return (sandbox->namespaces & both) == both ? userns_of_inner(sandbox) : 0;
}

/* Who makes a namespace owns it: so the sandbox's user namespace is entered first, if it has one. */
static sysret make(const struct sandbox *sandbox)
{
    sysret result = sandbox->namespaces & CLONE_NEWUSER ? SYS(setns, sandbox->userns, CLONE_NEWUSER) : 0;
    if (result >= 0)
        result = SYS(unshare, CLONE_NEWNET);
    return result < 0 ? result : SYS(openat, AT_FDCWD, "/proc/self/ns/net", O_RDONLY | O_CLOEXEC, 0);
}

sysret network_make(const struct sandbox *sandbox)
{
    return sandbox->namespaces & CLONE_NEWNET ? make(sandbox) : 0;
}

sysret network_hand_over(const struct sandbox *sandbox, sysret made)
{
    int network = (int)made;
    return sandbox->namespaces & CLONE_NEWNET ? handover_send(sandbox, &network, sizeof network) : 0;
}

sysret network_join(struct sandbox *sandbox)
{
    int network;
    if (!(sandbox->namespaces & CLONE_NEWNET))
        return 0;
    handover_receive(sandbox, &network, sizeof network);
    sandbox->namespaces &= ~(uint64_t)CLONE_NEWNET;
    return SYS(setns, network, CLONE_NEWNET);
}
