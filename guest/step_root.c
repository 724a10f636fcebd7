/* The new root: where it comes from, and becoming it. */
#include "sandbox.h"

#include "beneath.h"
#include "filesystem.h"
#include "kernel.h"
#include "mount_tree.h"

#include <linux/fcntl.h>

sysret step_private(struct sandbox *sandbox, const struct plan_step *step)
{
    (void)sandbox, (void)step;
    return SYS(mount, NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
}

/* A new root takes the place of an earlier one, in which it may be mounted. */
static void set_root(struct sandbox *sandbox, sysret root)
{
    ak_close(sandbox->root);
    sandbox->root = (int)root;
}

static sysret root_filesystem(struct sandbox *sandbox, const char *type, const char *directory, const char *options)
{
    sysret root, target = beneath_root(directory, O_PATH | O_DIRECTORY);
    if (target < 0)
        return target;
    root = filesystem_mount((int)target, type, options, 0);
    ak_close(target);
    if (root >= 0)
        root = beneath_root(directory, O_PATH | O_DIRECTORY);
    if (root >= 0)
        set_root(sandbox, root);
    return root;
}

static sysret root_tree(struct sandbox *sandbox, int tree, const char *directory)
{
    sysret result, target = beneath_root(directory, O_PATH | O_DIRECTORY);
    if (target < 0)
        return target;
    result = mount_tree_place(tree, (int)target);
    ak_close(target);
    if (result >= 0)
        set_root(sandbox, tree);
    return result;
}

sysret step_root_tmpfs(struct sandbox *sandbox, const struct plan_step *step)
{
    return root_filesystem(sandbox, "tmpfs", step->arguments[0].text, step->arguments[1].text);
}

sysret step_root_overlay(struct sandbox *sandbox, const struct plan_step *step)
{
    return root_filesystem(sandbox, "overlay", step->arguments[0].text, step->arguments[1].text);
}

sysret step_root_slot(struct sandbox *sandbox, const struct plan_step *step)
{
    return root_tree(sandbox, sandbox->slots[step->arguments[0].number], step->arguments[1].text);
}

sysret step_root_bind(struct sandbox *sandbox, const struct plan_step *step)
{
    sysret result, tree = mount_tree_clone(step->arguments[0].text, true);
    if (tree < 0)
        return tree;
    result = mount_tree_set((int)tree, step->arguments[2].number, true, -1);
    if (result >= 0)
        result = root_tree(sandbox, (int)tree, step->arguments[1].text);
    if (result < 0)
        ak_close(tree);
    return result;
}

sysret step_remount_root(struct sandbox *sandbox, const struct plan_step *step)
{
    return mount_tree_set(sandbox->root, step->arguments[0].number, false, -1);
}

sysret step_remount(struct sandbox *sandbox, const struct plan_step *step)
{
    sysret result, mounted = beneath_open(sandbox->root, step->arguments[0].text);
    if (mounted < 0)
        return mounted;
    result = mount_tree_set((int)mounted, step->arguments[1].number, false, -1);
    ak_close(mounted);
    return result;
}

/* pivot_root(".", ".") puts the old root on top of the new one at "/", from where it is detached (pivot_root(2), notes). */
sysret step_pivot(struct sandbox *sandbox, const struct plan_step *step)
{
    sysret result = SYS(fchdir, sandbox->root);
    (void)step;
    if (result >= 0)
        result = SYS(pivot_root, ".", ".");
    if (result >= 0)
        result = SYS(umount2, ".", MNT_DETACH);
    if (result >= 0)
        result = SYS(chdir, "/");
    return result;
}
