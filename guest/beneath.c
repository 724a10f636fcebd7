/* Paths that cannot be redirected (openat2(2)); missing directories are made one by one, each beneath the descriptor of the one before. */
#include "beneath.h"

#include "kernel.h"
#include "plan.h"

#include <linux/fcntl.h>

#define DIRECTORY_MODE 0755
#define FILE_MODE 0644

static sysret open_how(int directory, const char *path, uint64_t flags, uint64_t resolve)
{
    struct ak_open_how how = {.flags = flags | O_CLOEXEC, .resolve = resolve | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    sysret fd;
    do
        fd = SYS(openat2, directory, path, &how, sizeof how);
    while (fd == -EAGAIN || fd == -EINTR); /* EAGAIN: something was renamed during the walk */
    return fd;
}

static sysret open_directory(int directory, const char *path)
{
    return open_how(directory, path, O_PATH | O_DIRECTORY, RESOLVE_BENEATH);
}

sysret beneath_root(const char *path, unsigned flags)
{
    return open_how(AT_FDCWD, path, flags, 0);
}

sysret beneath_open(int directory, const char *path)
{
    return open_how(directory, path, O_PATH, RESOLVE_BENEATH);
}

sysret beneath_open_itself(int directory, const char *path)
{
    return open_how(directory, path, O_PATH | O_NOFOLLOW, RESOLVE_BENEATH);
}

/* Opens the directory `name` (one component) in `parent`, made if it is missing. */
static sysret step_into(int parent, const char *name)
{
    sysret next = open_directory(parent, name);
    if (next != -ENOENT)
        return next;
    next = SYS(mkdirat, parent, name, DIRECTORY_MODE);
    if (next < 0 && next != -EEXIST)
        return next;
    return open_directory(parent, name);
}

/* As beneath_make_directory; cuts `path` into its components. */
static sysret walk(int directory, char *path)
{
    sysret at = directory;
    while (*path) {
        char *end = path;
        sysret next;
        while (*end && *end != '/')
            end++;
        if (*end)
            *end++ = '\0';
        next = step_into((int)at, path);
        if (at != directory)
            ak_close(at);
        if (next < 0)
            return next;
        at = next;
        path = end;
    }
    return at;
}

/* Copies what of `path` is before its last component; false where there is no room. */
static bool copy_parent(char copy[PLAN_PATH_MAX], const char *path, size_t length)
{
    if (length >= PLAN_PATH_MAX)
        return false;
    memcpy(copy, path, length);
    copy[length] = '\0';
    return true;
}

/* Where the last component of `path` begins. */
static size_t last_component(const char *path)
{
    size_t at = strlen(path);
    while (at && path[at - 1] != '/')
        at--;
    return at;
}

sysret beneath_new_directory(int directory, const char *path)
{
    const char *name;
    sysret error, fd, parent = beneath_parent(directory, path, &name);
    if (parent < 0)
        return parent;
    error = SYS(mkdirat, parent, name, DIRECTORY_MODE);
    fd = error < 0 && error != -EEXIST ? error : open_directory((int)parent, name);
    ak_close(parent);
    return fd;
}

sysret beneath_make_directory(int directory, const char *path)
{
    sysret fd = open_directory(directory, path);
    return fd == -ENOENT ? beneath_new_directory(directory, path) : fd;
}

sysret beneath_parent(int directory, const char *path, const char **name)
{
    char copy[PLAN_PATH_MAX];
    size_t cut = last_component(path);
    sysret fd;
    *name = path + cut;
    if (cut == 0)
        return SYS(fcntl, directory, F_DUPFD_CLOEXEC, 0);
    if (!copy_parent(copy, path, cut - 1))
        return -ENAMETOOLONG;
    fd = open_directory(directory, copy);
    return fd == -ENOENT ? walk(directory, copy) : fd;
}

sysret beneath_make_file(int directory, const char *path)
{
    const char *name;
    sysret fd, parent = beneath_parent(directory, path, &name);
    if (parent < 0)
        return parent;
    fd = SYS(openat, parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, FILE_MODE);
    ak_close(parent);
    return fd;
}
