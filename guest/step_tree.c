/* TREE and IDMAP_TREE: clone mounts outside, where the rights to do so are, into the slots that the inner process attaches. */
#include "sandbox.h"

#include "mount_tree.h"
#include "procfs.h"
#include "userns.h"

#include <asm/signal.h>
#include <linux/fcntl.h>
#include <linux/poll.h>
#include <linux/sched.h>

#define IDMAP_IF_POSSIBLE 2u /* overlayfs and some network file systems cannot be id-mapped */

static sysret fill_slot(struct sandbox *sandbox, const struct plan_step *step, int userns_fd, bool or_unmapped)
{
    bool recursive = step->arguments[3].number;
    sysret result, tree = mount_tree_clone(step->arguments[1].text, recursive);
    if (tree < 0)
        return tree;
    result = mount_tree_set((int)tree, step->arguments[2].number, recursive, userns_fd);
    if (result == -EINVAL && or_unmapped)
        result = mount_tree_set((int)tree, step->arguments[2].number, recursive, -1);
    if (result < 0)
        ak_close(tree);
    else
        sandbox->slots[step->arguments[0].number] = (int)tree;
    return result;
}

sysret step_tree(struct sandbox *sandbox, const struct plan_step *step)
{
    sysret userns = step->arguments[4].number ? userns_of_inner(sandbox) : 0;
    if (userns < 0)
        return userns;
    return fill_slot(sandbox, step, step->arguments[4].number ? (int)userns : -1, step->arguments[4].number == IDMAP_IF_POSSIBLE);
}

/* The process of a throw-away user namespace: waits to be killed, and ends by itself should the outer process end first. */
static _Noreturn void keep_userns(int outer)
{
    struct pollfd end = {.fd = outer, .events = POLLIN};
    while (SYS(ppoll, &end, 1, NULL, NULL, 0) == -EINTR)
        continue;
    ak_exit(0);
}

static sysret read_userns(int pid, const char *map, size_t length)
{
    sysret result = procfs_write(pid, "uid_map", map, length);
    if (result >= 0)
        result = procfs_write(pid, "gid_map", map, length);
    return result < 0 ? result : procfs_open(pid, "ns/user", O_RDONLY);
}

/* A user namespace with this map and no process in it; its descriptor or -errno. */
static sysret make_userns(const struct sandbox *sandbox, const char *map, size_t length)
{
    sysret userns, pid = SYS(clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        keep_userns(sandbox->outer);
    if (pid < 0)
        return pid;
    userns = read_userns((int)pid, map, length);
    (void)SYS(kill, pid, SIGKILL);
    while (SYS(wait4, pid, NULL, 0, NULL) == -EINTR)
        continue;
    return userns;
}

sysret step_idmap_tree(struct sandbox *sandbox, const struct plan_step *step)
{
    const struct plan_value *map = &step->arguments[4];
    if (!sandbox->mapped_text || !ak_streq(sandbox->mapped_text, map->text)) {
        sysret userns = make_userns(sandbox, map->text, map->length);
        if (userns < 0)
            return userns;
        ak_close(sandbox->mapped_userns);
        sandbox->mapped_userns = (int)userns;
        sandbox->mapped_text = map->text;
    }
    return fill_slot(sandbox, step, sandbox->mapped_userns, false);
}
