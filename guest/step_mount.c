/* New file systems beneath the new root. */
#include "sandbox.h"

#include "beneath.h"
#include "filesystem.h"

static sysret mount_beneath(const struct sandbox *sandbox, const char *path, const char *type, const char *options, uint64_t attributes)
{
    sysret result, directory = beneath_make_directory(sandbox->root, path);
    if (directory < 0)
        return directory;
    result = filesystem_mount((int)directory, type, options, attributes);
    ak_close(directory);
    return result;
}

static sysret mount_step(const struct sandbox *sandbox, const struct plan_step *step, const char *type)
{
    const struct plan_value *arguments = step->arguments;
    return mount_beneath(sandbox, arguments[0].text, type, arguments[1].text, arguments[2].number);
}

sysret step_tmpfs(struct sandbox *sandbox, const struct plan_step *step)
{
    return mount_step(sandbox, step, "tmpfs");
}

sysret step_overlay(struct sandbox *sandbox, const struct plan_step *step)
{
    return mount_step(sandbox, step, "overlay");
}

sysret step_proc(struct sandbox *sandbox, const struct plan_step *step)
{
    return mount_step(sandbox, step, "proc");
}

sysret step_devpts(struct sandbox *sandbox, const struct plan_step *step)
{
    return mount_step(sandbox, step, "devpts");
}

sysret step_mqueue(struct sandbox *sandbox, const struct plan_step *step)
{
    return mount_beneath(sandbox, step->arguments[0].text, "mqueue", "", step->arguments[1].number);
}
