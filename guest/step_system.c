/* Settings of the sandbox's namespaces and the agent's limits. */
#include "sandbox.h"

#include "beneath.h"

#include <linux/fcntl.h>
#include <linux/if.h>
#include <linux/sockios.h>

struct limit {
    uint64_t soft;
    uint64_t hard;
};

sysret step_hostname(struct sandbox *sandbox, const struct plan_step *step)
{
    (void)sandbox;
    return SYS(sethostname, step->arguments[0].text, step->arguments[0].length);
}

sysret step_loopback(struct sandbox *sandbox, const struct plan_step *step)
{
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    sysret result, fd = SYS(socket, AF_INET, SOCK_DGRAM | O_CLOEXEC, 0);
    (void)sandbox, (void)step;
    if (fd < 0)
        return fd;
    result = SYS(ioctl, fd, SIOCSIFFLAGS, &request);
    ak_close(fd);
    return result;
}

sysret step_rlimit(struct sandbox *sandbox, const struct plan_step *step)
{
    struct limit limit = {.soft = step->arguments[1].number, .hard = step->arguments[2].number};
    (void)sandbox;
    return SYS(prlimit64, 0, step->arguments[0].number, &limit, NULL);
}

sysret step_sysctl(struct sandbox *sandbox, const struct plan_step *step)
{
    static const char prefix[] = "/proc/sys/";
    char path[sizeof prefix + PLAN_PATH_MAX];
    const struct plan_value *name = &step->arguments[0], *value = &step->arguments[1];
    sysret result, fd;
    (void)sandbox;
    memcpy(path, prefix, sizeof prefix - 1);
    memcpy(path + sizeof prefix - 1, name->text, name->length + 1); /* the plan's reader bounds it by PLAN_PATH_MAX */
    fd = beneath_root(path, O_WRONLY);
    if (fd < 0)
        return fd;
    result = ak_write_all((int)fd, value->text, value->length);
    ak_close(fd);
    return result;
}
