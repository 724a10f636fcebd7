/* Files of a process in /proc, by pid. */
#include "procfs.h"

#include <linux/fcntl.h>

#define PREFIX "/proc/"
#define NAME_MAX_BYTES 16u

sysret procfs_open(int pid, const char *name, unsigned flags)
{
    char path[sizeof PREFIX + 20 + 1 + NAME_MAX_BYTES] = PREFIX;
    size_t at = sizeof PREFIX - 1, length = strlen(name);
    if (length >= NAME_MAX_BYTES)
        return -ENAMETOOLONG;
    at += ak_format_u64(path + at, (uint64_t)pid);
    path[at++] = '/';
    memcpy(path + at, name, length + 1);
    return SYS(openat, AT_FDCWD, path, flags | O_CLOEXEC, 0);
}

sysret procfs_write(int pid, const char *name, const char *text, size_t length)
{
    sysret wrote, fd = procfs_open(pid, name, O_WRONLY);
    if (fd < 0)
        return fd;
    wrote = SYS(write, fd, text, length);
    ak_close(fd);
    return wrote < 0 || (size_t)wrote == length ? wrote : -EIO;
}
