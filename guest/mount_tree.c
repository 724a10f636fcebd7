/* Mount trees by descriptor: open_tree(2), mount_setattr(2), move_mount(2). */
#include "mount_tree.h"

#include "beneath.h"
#include "kernel.h"

#include <asm/stat.h>
#include <linux/fcntl.h>

sysret mount_tree_clone_at(int fd, bool recursive)
{
    return SYS(open_tree, fd, "", OPEN_TREE_CLONE | AK_OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0));
}

sysret mount_tree_clone(const char *path, bool recursive)
{
    sysret tree, fd = beneath_root(path, O_PATH);
    if (fd < 0)
        return fd;
    tree = mount_tree_clone_at((int)fd, recursive);
    ak_close(fd);
    return tree;
}

sysret mount_tree_set(int tree, uint64_t attributes, bool recursive, int userns_fd)
{
    struct ak_mount_attr change = {.set = attributes, .propagation = MS_PRIVATE};
    if (attributes & MOUNT_ATTR__ATIME)
        change.clear = MOUNT_ATTR__ATIME;
    if (userns_fd >= 0) {
        change.set |= MOUNT_ATTR_IDMAP;
        change.userns_fd = (uint64_t)userns_fd;
    }
    return SYS(mount_setattr, tree, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &change, sizeof change);
}

sysret mount_tree_place(int tree, int target)
{
    return SYS(move_mount, tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

/* The mount point of a tree at a path where nothing is. */
static sysret make_mount_point(int tree, int root, const char *path)
{
    struct stat what;
    sysret result = SYS(fstat, tree, &what);
    if (result < 0)
        return result;
    return (what.st_mode & S_IFMT) == S_IFDIR ? beneath_new_directory(root, path) : beneath_make_file(root, path);
}

sysret mount_tree_place_beneath(int tree, int root, const char *path)
{
    sysret result, target = beneath_open(root, path);
    if (target == -ENOENT)
        target = make_mount_point(tree, root, path);
    if (target < 0)
        return target;
    result = mount_tree_place(tree, (int)target);
    ak_close(target);
    return result;
}
