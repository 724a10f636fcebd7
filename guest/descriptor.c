/* Descriptors: a process started by the agent must inherit none of the agent's. */
#include "descriptor.h"

#include "kernel.h"

void descriptor_close(int *fd)
{
    if (*fd >= 0)
        (void)SYS(close, *fd);
    *fd = -1;
}

sysret descriptor_pipe(int pair[2])
{
    sysret error = SYS(pipe2, pair, O_CLOEXEC);
    if (error)
        pair[0] = pair[1] = -1;
    return error;
}

sysret descriptor_nonblocking(int fd, bool on)
{
    sysret flags = SYS(fcntl, fd, F_GETFL);
    if (flags < 0)
        return flags;
    return SYS(fcntl, fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
}

static void close_span(unsigned first, unsigned last)
{
    if (first > last || SYS(close_range, first, last, 0) == 0)
        return;
    if (last > DESCRIPTORS_MAX)
        last = DESCRIPTORS_MAX;
    for (unsigned fd = first; fd <= last; fd++)
        (void)SYS(close, fd);
}

void descriptor_close_others(const int *keep, unsigned n)
{
    unsigned from = 0;
    for (;;) {
        unsigned lowest = ~0u;
        for (unsigned i = 0; i < n; i++)
            if (keep[i] >= 0 && (unsigned)keep[i] >= from && (unsigned)keep[i] < lowest)
                lowest = (unsigned)keep[i];
        if (lowest == ~0u)
            break;
        if (lowest > from)
            close_span(from, lowest - 1);
        from = lowest + 1;
    }
    close_span(from, ~0u >> 1);
}
