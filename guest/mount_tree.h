/* Mount trees: detached clones of mounts (open_tree(2)), which are changed before anyone can reach them and then put in their place. */
#ifndef AK_MOUNT_TREE_H
#define AK_MOUNT_TREE_H

#include "sys.h"

/* A detached clone of the mount at `path`, absolute, reached without symlinks; its descriptor or -errno. */
sysret mount_tree_clone(const char *path, bool recursive);

/* A detached clone of the mount at this descriptor, from there down. */
sysret mount_tree_clone_at(int fd, bool recursive);

/* Sets these MOUNT_ATTR_* and makes the tree private; maps it as `userns_fd` does unless that is -1. */
sysret mount_tree_set(int tree, uint64_t attributes, bool recursive, int userns_fd);

/* Mounts the tree on what `target` is. */
sysret mount_tree_place(int tree, int target);

/* Mounts the tree at `path` beneath `root`; a missing mount point is made. */
sysret mount_tree_place_beneath(int tree, int root, const char *path);

#endif
