/* What the agent makes of itself before it serves: descriptors, signals, limits, identity. */
#include "state.h"

#include "clock.h"
#include "descriptor.h"
#include "gvisor.h"

#include <asm/stat.h>
#include <linux/capability.h>
#include <linux/eventpoll.h>
#include <linux/prctl.h>
#include <linux/random.h>
#include <linux/resource.h>

#define NULL_DEVICE 0x103u /* major 1, minor 3 */
#define UNSHARED_UID 65531u

static void make_boot_id(struct agent *agent)
{
    uint64_t mixed[2] = {clock_us(CLOCK_REALTIME) ^ (uint64_t)(uintptr_t)&mixed, clock_us(CLOCK_MONOTONIC) * 0x9e3779b97f4a7c15u ^ (uint64_t)SYS(getpid)};
    if (SYS(getrandom, agent->boot_id, EPOCH_SIZE, GRND_NONBLOCK) == (sysret)EPOCH_SIZE)
        return;
    /* Early in the boot of a virtual machine there may be no entropy yet; the id need only differ, nothing secret depends on it. */
    memcpy(agent->boot_id, mixed, EPOCH_SIZE);
}

static bool has_setuid_capability(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[2] = {{0}};
    return SYS(capget, &header, sets) == 0 && sets[0].effective & 1u << CAP_SETUID;
}

/* Whether the ids of usual workloads can be switched to; asked of the file system uid, which can be put back. */
static bool can_switch_user(void)
{
    static const unsigned candidates[] = {1000, 65534, 1};
    long own = SYS(setfsuid, -1);
    int parent_death_signal = 0;
    bool can = false;
    if (own < 0)
        return has_setuid_capability(); /* gVisor has no file system uid */
    (void)SYS(prctl, PR_GET_PDEATHSIG, &parent_death_signal, 0, 0, 0);
    for (unsigned i = 0; i < 3; i++) {
        if ((long)candidates[i] == own)
            continue;
        (void)SYS(setfsuid, candidates[i]);
        can = can || SYS(setfsuid, -1) == (long)candidates[i];
        (void)SYS(setfsuid, own);
    }
    (void)SYS(prctl, PR_SET_PDEATHSIG, parent_death_signal, 0, 0, 0); /* a change of the uid takes it away, and the launcher may rely on it */
    return can;
}

/*
 * In gVisor even PID 1 gets the SIGKILL and SIGSTOP of a workload that has its uid. So there the agent takes a real and a saved uid that nobody
 * else has, which is what may-signal looks at; its effective uid, and with it all that it may do, stays.
 */
static void withdraw_from_signals(void)
{
    if (gvisor_is_kernel())
        (void)SYS(setresuid, UNSHARED_UID, -1, UNSHARED_UID);
}

/* The agent executes nothing, so its own capabilities stay; what it starts could gain none. Once here, because each drop costs a started process time. */
static void drop_bounding_set(void)
{
    for (int capability = 0; SYS(prctl, PR_CAPBSET_DROP, capability, 0, 0, 0) == 0; capability++)
        ;
}

/* Everything is blocked and nothing ignored but SIGPIPE; started processes get the usual dispositions back. */
static void set_signals(struct agent *agent)
{
    _Alignas(8) char action[64] = {0};
    uint64_t all = ~0ull;
    uint64_t wanted = 1ull << (SIGCHLD - 1) | 1ull << (SIGTERM - 1) | (agent->is_init ? 0 : 1ull << (SIGINT - 1) | 1ull << (SIGHUP - 1));
    (void)SYS(rt_sigprocmask, SIG_SETMASK, &all, NULL, 8);
    for (int number = 1; number <= 64; number++)
        (void)SYS(rt_sigaction, number, action, NULL, 8);
    action[0] = 1; /* SIG_IGN */
    (void)SYS(rt_sigaction, SIGPIPE, action, NULL, 8);
    agent->signals = (int)SYS(signalfd4, -1, &wanted, sizeof wanted, O_CLOEXEC | O_NONBLOCK);
    if (agent->signals >= 0)
        (void)agent_watch(agent, agent->signals, SOURCE_SIGNALS, 0, EPOLLIN);
}

static void raise_file_limit(struct agent *agent)
{
    struct resource_limit raised;
    if (SYS(prlimit64, 0, RLIMIT_NOFILE, NULL, &agent->files))
        agent->files.hard = 0;
    raised = agent->files;
    raised.soft = raised.hard < DESCRIPTORS_MAX ? raised.hard : DESCRIPTORS_MAX;
    if (raised.soft > agent->files.soft)
        (void)SYS(prlimit64, 0, RLIMIT_NOFILE, &raised, NULL);
}

/* At most half of the descriptors: commands need theirs. */
static unsigned most_tunnels(void)
{
    struct resource_limit files = {.soft = 2 * TUNNELS_MAX};
    (void)SYS(prlimit64, 0, RLIMIT_NOFILE, NULL, &files);
    return files.soft < 2 * TUNNELS_MAX ? (unsigned)files.soft / 2 : TUNNELS_MAX;
}

static sysret open_null_device(void)
{
    struct stat status;
    sysret fd = SYS(openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return fd;
    if (SYS(fstat, fd, &status) == 0 && status.st_rdev == NULL_DEVICE)
        return fd;
    (void)SYS(close, fd); /* an image may hold anything under that name */
    return -ENODEV;
}

/* Something to read nothing from, and to keep 0-2 taken: a pipe to or from the workload must never get such a number. */
static bool open_null(struct agent *agent)
{
    int pair[2] = {-1, -1};
    pair[0] = (int)open_null_device();
    if (pair[0] < 0 && descriptor_pipe(pair))
        return false;
    agent->null = (int)SYS(fcntl, pair[0], F_DUPFD_CLOEXEC, 3);
    descriptor_close(&pair[0]);
    descriptor_close(&pair[1]);
    /* The agent has nothing to say; what it could say it on is the host's, and gVisor lets others open it. */
    if (agent->null >= 0 && gvisor_is_kernel())
        (void)SYS(dup3, agent->null, 2, 0);
    for (int low = 0; low < 3 && agent->null >= 0; low++)
        if (SYS(fcntl, low, F_GETFD) < 0)
            (void)SYS(dup3, agent->null, low, 0);
    return agent->null >= 0;
}

bool agent_prepare(struct agent *agent, const struct agent_cgroups *cgroups)
{
    agent->cgroups = cgroups ? *cgroups : (struct agent_cgroups){.v2_directory = -1, .v2_procs = -1};
    agent->listen = -1;
    for (unsigned i = 0; i < LINKS; i++)
        agent->links[i].in = agent->links[i].out = -1;
    agent->is_init = SYS(getpid) == 1;
    agent->can_switch_user = can_switch_user();
    if (agent->is_init && agent->can_switch_user)
        withdraw_from_signals();
    drop_bounding_set();
    (void)SYS(prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
    (void)SYS(prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    agent->now_ms = agent->started_ms = monotonic_ms();
    make_boot_id(agent);
    raise_file_limit(agent);
    agent->tunnels.most = most_tunnels();
    if (!open_null(agent))
        return false;
    agent->proc = process_table_open();
    agent->epoll = (int)SYS(epoll_create1, O_CLOEXEC);
    if (agent->epoll < 0)
        return false;
    set_signals(agent);
    return true;
}
