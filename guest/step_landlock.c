/* Landlock (landlock(7)): a ruleset, its rules, and its application. */
#include "sandbox.h"

#include "beneath.h"
#include "kernel.h"

#include <asm/stat.h>
#include <linux/fcntl.h>

/* Kernels refuse an attribute structure longer than theirs, so no more of it is passed than the plan makes use of. */
static size_t ruleset_bytes(const struct ak_landlock_ruleset *ruleset)
{
    if (ruleset->scoped)
        return sizeof *ruleset;
    return ruleset->handled_access_net ? offsetof(struct ak_landlock_ruleset, scoped) : offsetof(struct ak_landlock_ruleset, handled_access_net);
}

sysret step_landlock(struct sandbox *sandbox, const struct plan_step *step)
{
    const struct plan_value *arguments = step->arguments;
    struct ak_landlock_ruleset ruleset = {arguments[0].number, arguments[1].number, arguments[2].number};
    sysret fd = SYS(landlock_create_ruleset, &ruleset, ruleset_bytes(&ruleset), 0);
    if (fd >= 0)
        sandbox->ruleset = (int)fd;
    return fd;
}

static sysret add_rule(int ruleset, int fd, uint64_t access)
{
    struct ak_landlock_path rule = {.allowed_access = access, .parent_fd = fd};
    struct stat what;
    sysret result = SYS(fstat, fd, &what);
    if (result < 0)
        return result;
    if ((what.st_mode & S_IFMT) != S_IFDIR)
        rule.allowed_access &= AK_LANDLOCK_FILE_ACCESS;
    if (rule.allowed_access == 0)
        return 0;
    return SYS(landlock_add_rule, ruleset, AK_LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
}

sysret step_landlock_path(struct sandbox *sandbox, const struct plan_step *step)
{
    sysret result, fd = beneath_root(step->arguments[0].text, O_PATH);
    if (fd < 0)
        return fd == -ENOENT || fd == -ENOTDIR ? 0 : fd;
    result = add_rule(sandbox->ruleset, (int)fd, step->arguments[1].number);
    ak_close(fd);
    return result;
}

sysret step_landlock_apply(struct sandbox *sandbox, const struct plan_step *step)
{
    sysret result = SYS(landlock_restrict_self, sandbox->ruleset, 0);
    (void)step;
    ak_close(sandbox->ruleset);
    sandbox->ruleset = -1;
    return result;
}
