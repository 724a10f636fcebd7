/* What the hostile programs share. Every program is compiled with this in front, and its main is one entry of a single static binary.
 *
 * A program says on stdout what it got: "REACHED: ..." when the attack worked, "blocked: ..." when it was refused, "absent: ..." when this
 * kernel has no such thing. What it cannot judge itself (a secret in its output, a changed host) the oracle does.
 *
 * What the oracle planted on the host is named in the environment: AK_SECRET (a file), AK_CANARY (a directory), AK_WORK (where the program may
 * write), AK_VICTIM (a process that holds the secret), AK_ADDRESS (where in its memory), AK_DESCRIPTOR (its open file), AK_TCP, AK_UDP, AK_ABSTRACT,
 * AK_SOCKET, AK_SHM, AK_MSG, AK_MQ, AK_DEVSHM, AK_ADDRESS_OUTSIDE, AK_SETUID, AK_FILECAP.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/memfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

/* Headers of the C library are older than some of these. */
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_open_tree
#define SYS_open_tree 428
#endif
#ifndef SYS_fsopen
#define SYS_fsopen 430
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif

__attribute__((format(printf, 1, 2), unused)) static void reached(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("REACHED: ", stdout);
    vprintf(format, arguments);
    putchar('\n');
    fflush(stdout);
    va_end(arguments);
}

__attribute__((unused)) static const char *planted(const char *name)
{
    const char *value = getenv(name);
    return value ? value : "";
}

__attribute__((unused)) static pid_t victim(void)
{
    return atoi(planted("AK_VICTIM"));
}

__attribute__((unused)) static int is_absent(int number)
{
    return number == ENOSYS || number == EAFNOSUPPORT || number == EPROTONOSUPPORT || number == ESOCKTNOSUPPORT || number == ENODEV || number == ENXIO;
}

/* The attack works when the call succeeds. */
__attribute__((unused)) static int verdict(const char *what, long result)
{
    int number = errno;
    if (result >= 0)
        reached("%s", what);
    else
        printf("%s: %s: %s\n", is_absent(number) ? "absent" : "blocked", what, strerror(number));
    return result >= 0;
}

/* The call is made with arguments that can never work, so that it harms nobody: any answer but "not permitted" came from behind the wall. */
__attribute__((unused)) static int verdict_past_permission(const char *what, long result)
{
    int number = errno;
    if (result < 0 && (number == EPERM || number == EACCES || number == ENOSYS)) {
        printf("%s: %s: %s\n", number == ENOSYS ? "absent" : "blocked", what, strerror(number));
        return 0;
    }
    reached("%s: %s", what, result < 0 ? strerror(number) : "done");
    return 1;
}

/* Outside, in a control, only what the test itself planted may be touched: never process 1 or another program's files and sockets. */
__attribute__((unused)) static int inside(void)
{
    return getenv("AK_INSIDE") != NULL;
}

/* Copies whatever can be read to stdout, where the oracle looks for the secret. */
__attribute__((unused)) static void show(int fd)
{
    char buffer[4096];
    ssize_t size;
    fflush(stdout);
    while (fd >= 0 && (size = read(fd, buffer, sizeof buffer)) > 0)
        if (write(1, buffer, (size_t)size) < 0)
            break;
    if (fd >= 0)
        close(fd);
}

__attribute__((unused)) static void show_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        printf("blocked: %s: %s\n", path, strerror(errno));
    show(fd);
}

__attribute__((unused)) static void in_work(char *path, size_t size, const char *name)
{
    snprintf(path, size, "%s/%s", getenv("AK_WORK") ? getenv("AK_WORK") : ".", name);
}

__attribute__((unused)) static void sleep_ms(long ms)
{
    struct timespec wait_time = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&wait_time, &wait_time) < 0 && errno == EINTR)
        ;
}

__attribute__((unused, noreturn)) static void outlast(void)
{
    for (;;)
        sleep_ms(1000);
}
