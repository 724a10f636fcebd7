/* Existing mounts at another place of the new root, and what hides or protects parts of it. */
#include "sandbox.h"

#include "beneath.h"
#include "filesystem.h"
#include "kernel.h"
#include "mount_tree.h"

#include <asm/stat.h>

/* Sets the tree's attributes and mounts it; closes it. */
static sysret place_with(sysret tree, uint64_t attributes, const struct sandbox *sandbox, const char *path)
{
    sysret result = tree;
    if (tree >= 0)
        result = mount_tree_set((int)tree, attributes, true, -1);
    if (result >= 0)
        result = mount_tree_place_beneath((int)tree, sandbox->root, path);
    ak_close(tree);
    return result;
}

sysret step_bind(struct sandbox *sandbox, const struct plan_step *step)
{
    const struct plan_value *arguments = step->arguments;
    return place_with(mount_tree_clone(arguments[0].text, arguments[3].number), arguments[2].number, sandbox, arguments[1].text);
}

sysret step_attach(struct sandbox *sandbox, const struct plan_step *step)
{
    return mount_tree_place_beneath(sandbox->slots[step->arguments[0].number], sandbox->root, step->arguments[1].text);
}

sysret step_bind_within(struct sandbox *sandbox, const struct plan_step *step)
{
    sysret tree, source = beneath_open(sandbox->root, step->arguments[0].text);
    if (source < 0)
        return source;
    tree = mount_tree_clone_at((int)source, true);
    ak_close(source);
    return place_with(tree, step->arguments[2].number, sandbox, step->arguments[1].text);
}

static bool is_missing(sysret result)
{
    return result == -ENOENT || result == -ENOTDIR;
}

/* Protects a tree and puts it on top of the target; closes it. */
static sysret cover(sysret tree, uint64_t attributes, int target)
{
    sysret result = tree;
    if (tree >= 0)
        result = mount_tree_set((int)tree, attributes, true, -1);
    if (result >= 0)
        result = mount_tree_place((int)tree, target);
    ak_close(tree);
    return result;
}

#define MASK_ATTRIBUTES (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)

/* The first mask of its kind; the descriptor of its mount or -errno. */
static sysret mask_first(const struct sandbox *sandbox, const char *path, int target, bool directory)
{
    sysret result;
    if (directory)
        result = filesystem_mount(target, "tmpfs", "size=4k,nr_inodes=2,mode=555", MASK_ATTRIBUTES | MOUNT_ATTR_NODEV);
    else
        result = cover(mount_tree_clone("/dev/null", false), MASK_ATTRIBUTES, target);
    return result < 0 ? result : beneath_open(sandbox->root, path);
}

/* Later masks are clones of the first, which is protected already: that is quicker than a file system for each. */
static sysret mask_again(int first, int target)
{
    sysret result, tree = mount_tree_clone_at(first, false);
    if (tree < 0)
        return tree;
    result = mount_tree_place((int)tree, target);
    ak_close(tree);
    return result;
}

static sysret mask(struct sandbox *sandbox, const char *path, int target)
{
    struct stat what;
    sysret result = SYS(fstat, target, &what);
    bool directory = (what.st_mode & S_IFMT) == S_IFDIR;
    if (result < 0)
        return result;
    if (sandbox->masks[directory] >= 0)
        return mask_again(sandbox->masks[directory], target);
    result = mask_first(sandbox, path, target, directory);
    if (result >= 0)
        sandbox->masks[directory] = (int)result;
    return result;
}

sysret step_mask(struct sandbox *sandbox, const struct plan_step *step)
{
    const char *path = step->arguments[0].text;
    sysret result, target = beneath_open(sandbox->root, path);
    if (target < 0)
        return is_missing(target) ? 0 : target;
    result = mask(sandbox, path, (int)target);
    ak_close(target);
    return result;
}

/* A symlink is protected itself: as a mount point it can be neither removed nor replaced. */
sysret step_read_only(struct sandbox *sandbox, const struct plan_step *step)
{
    sysret result, target = beneath_open_itself(sandbox->root, step->arguments[0].text);
    if (target < 0)
        return is_missing(target) ? 0 : target;
    result = cover(mount_tree_clone_at((int)target, true), MOUNT_ATTR_RDONLY, (int)target);
    ak_close(target);
    return result;
}
