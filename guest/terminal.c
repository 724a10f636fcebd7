/* Pseudo-terminals, by whatever path the sandbox has: /dev/ptmx, or only a devpts on /dev/pts. */
#include "terminal.h"

#include "descriptor.h"
#include "gvisor.h"

#include <asm/ioctls.h>
#include <asm/stat.h>
#include <asm/termbits.h>
#include <asm/termios.h>

#define PTMX_DEVICE 0x502u /* major 5, minor 2 */
#define CONTROL_D 4

static sysret open_master_at(const char *path)
{
    struct stat status;
    sysret fd = SYS(openat, AT_FDCWD, path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    int unlocked = 0;
    if (fd < 0)
        return fd;
    /* A workload may have put something else there. */
    if (SYS(fstat, fd, &status) == 0 && status.st_rdev == PTMX_DEVICE && SYS(ioctl, fd, TIOCSPTLCK, &unlocked) == 0)
        return fd;
    (void)SYS(close, fd);
    return -ENODEV;
}

static sysret open_slave(int master)
{
    char path[32] = "/dev/pts/";
    unsigned number;
    sysret fd;
#ifdef TIOCGPTPEER
    fd = SYS(ioctl, master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0)
        return fd;
#endif
    fd = SYS(ioctl, master, TIOCGPTN, &number);
    if (fd < 0)
        return fd;
    ak_format_u64(path + 9, number);
    return SYS(openat, AT_FDCWD, path, O_RDWR | O_NOCTTY | O_CLOEXEC);
}

sysret terminal_open(uint16_t rows, uint16_t columns, uint32_t uid, int pair[2])
{
    sysret fd = open_master_at("/dev/ptmx");
    pair[0] = pair[1] = -1;
    if (fd < 0)
        fd = open_master_at("/dev/pts/ptmx");
    if (fd < 0)
        return fd;
    pair[0] = (int)fd;
    (void)terminal_resize(pair[0], rows, columns);
    fd = open_slave(pair[0]);
    if (fd < 0) {
        descriptor_close(&pair[0]);
        return fd;
    }
    pair[1] = (int)fd;
    if (uid != UINT32_MAX)
        (void)SYS(fchown, pair[1], uid, -1); /* so that the user can open it by name; the open descriptor works without */
    return 0;
}

sysret terminal_resize(int master, uint16_t rows, uint16_t columns)
{
    struct winsize size = {.ws_row = rows, .ws_col = columns};
    return SYS(ioctl, master, TIOCSWINSZ, &size);
}

bool terminal_is_silent(void)
{
    return gvisor_is_kernel(); /* up to 2024 at least */
}

size_t terminal_end(int master, bool at_line_start, char out[2])
{
    struct termios modes;
    out[0] = out[1] = CONTROL_D;
    if (SYS(ioctl, master, TCGETS, &modes))
        return 1;
    if (modes.c_cc[VEOF])
        out[0] = out[1] = (char)modes.c_cc[VEOF];
    /* Within a line the first one only hands over what was typed. */
    return modes.c_lflag & ICANON && !at_line_start ? 2 : 1;
}
