/* The pipe from the outer process to the inner one, and how the inner one learns that nothing will come any more. */
#include "handover.h"

#include "kernel.h"

#include <linux/fcntl.h>
#include <linux/poll.h>

enum { READ_END, WRITE_END };

sysret handover_begin(struct sandbox *sandbox)
{
    return SYS(pipe2, sandbox->handover, O_CLOEXEC | O_NONBLOCK);
}

sysret handover_send(const struct sandbox *sandbox, const void *data, size_t size)
{
    return ak_write_all(sandbox->handover[WRITE_END], data, size);
}

void handover_receive(const struct sandbox *sandbox, void *data, size_t size)
{
    struct pollfd watched[] = {
        {.fd = sandbox->handover[READ_END], .events = POLLIN}, {.fd = sandbox->outer, .events = POLLIN}, {.fd = sandbox->status_fd}};
    sysret result;
    do
        result = SYS(ppoll, watched, sizeof watched / sizeof *watched, NULL, NULL, 0);
    while (result == -EINTR);
    /* What the outer process sent before its end is in the pipe: if nothing is (EAGAIN), it ended too early. */
    if (result < 0 || watched[2].revents || SYS(read, sandbox->handover[READ_END], data, size) != (sysret)size)
        ak_exit(1);
}
