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

sysret step_cgroup(struct sandbox *sandbox, const struct plan_step *step)
{
    struct agent_cgroups *cgroups = &sandbox->cgroups;
    sysret procs, directory = beneath_root(step->arguments[1].text, O_PATH | O_DIRECTORY);
    if (directory < 0)
        return directory;
    if (step->arguments[0].number == 3) {
        sandbox->first_cgroup = (int)directory;
        return 0;
    }
    procs = SYS(openat, directory, "cgroup.procs", O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    if (procs < 0 || step->arguments[0].number == 1)
        ak_close(directory);
    if (procs < 0)
        return procs;
    if (step->arguments[0].number == 1) {
        cgroups->v1_procs[cgroups->v1_count++] = (int)procs;
    } else {
        cgroups->v2_directory = (int)directory;
        cgroups->v2_procs = (int)procs;
    }
    return 0;
}
