/* The listening socket. Whoever reaches it commands the sandbox, so the workload itself is turned away. */
#include "listener.h"

#include "descriptor.h"
#include "process_table.h"

#include <asm/ioctls.h>
#include <asm/stat.h>
#include <asm/termbits.h>
#include <linux/socket.h>
#include <linux/un.h>

#ifndef AF_UNIX
#define AF_UNIX 1
#endif
#define AK_SOCK_STREAM 1
#define AK_SOL_SOCKET 1
#define AK_SO_PEERCRED 17
#define BACKLOG 16

struct peer {
    int pid;
    unsigned uid, gid;
};

static sysret bind_at(int fd, const struct sockaddr_un *address)
{
    struct stat status;
    sysret error = SYS(bind, fd, address, sizeof *address);
    if (error != -EADDRINUSE)
        return error;
    if (SYS(newfstatat, AT_FDCWD, address->sun_path, &status, AT_SYMLINK_NOFOLLOW) || (status.st_mode & 0170000) != 0140000)
        return error;
    (void)SYS(unlinkat, AT_FDCWD, address->sun_path, 0);
    return SYS(bind, fd, address, sizeof *address);
}

sysret listener_open(const char *path, bool any_uid)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t n = strlen(path);
    sysret error, fd, mask;
    if (n == 0 || n >= sizeof address.sun_path)
        return -ENAMETOOLONG;
    memcpy(address.sun_path, path, n);
    fd = SYS(socket, AF_UNIX, AK_SOCK_STREAM | O_CLOEXEC | O_NONBLOCK, 0);
    if (fd < 0)
        return fd;
    mask = SYS(umask, any_uid ? 0111 : 0177);
    error = bind_at((int)fd, &address);
    (void)SYS(umask, mask);
    if (!error)
        error = SYS(listen, fd, BACKLOG);
    if (error)
        (void)SYS(close, fd);
    return error ? error : fd;
}

/*
 * Hosts are outside the pid namespace (pid 0) or came into it from outside (an exec session of the engine). The workload's processes are all
 * descendants of PID 1; where nothing can be seen, the socket's mode has to do.
 */
static bool is_workload(int fd, int proc)
{
    struct peer peer = {0};
    int length = sizeof peer;
    if (SYS(getsockopt, fd, AK_SOL_SOCKET, AK_SO_PEERCRED, &peer, &length) || peer.pid == 0 || proc < 0)
        return false;
    return process_table_descends(proc, peer.pid, (int)SYS(getpid)) != 0; /* one that is gone already could have been anyone */
}

sysret listener_accept(int listener, int proc, bool is_init)
{
    sysret fd = SYS(accept4, listener, NULL, NULL, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || !is_init || !is_workload((int)fd, proc))
        return fd;
    (void)SYS(close, fd);
    return -EPERM;
}

/*
 * gVisor lets a workload with the owner's uid open /proc/PID/fd of a process that is not dumpable. After a change of its mode gVisor opens a pipe
 * of the host no more, whatever its mode is then. A socket cannot be opened in any case.
 */
static void close_to_others(int fd)
{
    struct stat status;
    if (SYS(fstat, fd, &status) == 0 && (status.st_mode & 0170000) == 0010000)
        (void)SYS(fchmod, fd, 0);
}

void stream_prepare(int fd)
{
    struct termios modes;
    close_to_others(fd);
    (void)descriptor_nonblocking(fd, true);
    (void)SYS(fcntl, fd, F_SETFD, FD_CLOEXEC);
    if (SYS(ioctl, fd, TCGETS, &modes))
        return;
    modes.c_iflag &= ~(unsigned)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    modes.c_oflag &= ~(unsigned)OPOST;
    modes.c_lflag &= ~(unsigned)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
    modes.c_cflag = (modes.c_cflag & ~(unsigned)(CSIZE | PARENB)) | CS8;
    modes.c_cc[VMIN] = 1;
    modes.c_cc[VTIME] = 0;
    (void)SYS(ioctl, fd, TCSETS, &modes);
}
