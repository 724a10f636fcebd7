/* Steps in the caller's namespaces: the id maps of the inner process, and the cgroups of the processes that the agent will start. */
#include "sandbox.h"

#include "beneath.h"
#include "procfs.h"

#include <linux/fcntl.h>

sysret step_idmap(struct sandbox *sandbox, const struct plan_step *step)
{
    const struct plan_value *uids = &step->arguments[0], *gids = &step->arguments[1];
    sysret result = procfs_write(sandbox->inner, "uid_map", uids->text, uids->length);
    if (result >= 0 && step->arguments[2].number)
        result = procfs_write(sandbox->inner, "setgroups", "deny", 4);
    if (result >= 0)
        result = procfs_write(sandbox->inner, "gid_map", gids->text, gids->length);
    return result;
}

static sysret keep_v1(struct agent_cgroups *cgroups, int directory)
{
    sysret tasks = SYS(openat, directory, "tasks", O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    ak_close(directory);
    if (tasks < 0)
        return tasks;
    cgroups->v1_tasks[cgroups->v1_count++] = (int)tasks;
    return 0;
}

static sysret keep_v2(struct agent_cgroups *cgroups, int directory)
{
    sysret procs = SYS(openat, directory, "cgroup.procs", O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    if (procs < 0)
        return procs;
    cgroups->v2_directory = directory;
    cgroups->v2_procs = (int)procs;
    return 0;
}

sysret step_cgroup(struct sandbox *sandbox, const struct plan_step *step)
{
    uint64_t kind = step->arguments[0].number;
    sysret directory = beneath_root(step->arguments[1].text, O_PATH | O_DIRECTORY);
    if (directory < 0)
        return directory;
    if (kind == 3) {
        sandbox->first_cgroup = (int)directory;
        return 0;
    }
    return (kind == 1 ? keep_v1 : keep_v2)(&sandbox->cgroups, (int)directory);
}
