/* Pipes or a terminal for a command, and the socket to its supervisor. */
#include "ends.h"

#include "descriptor.h"
#include "socket.h"
#include "spawn.h"
#include "terminal.h"

#include <linux/resource.h>

#define KEPT_FREE 16 /* descriptors for new attaches and for reading /proc */

static void close_pair(int pair[2])
{
    descriptor_close(&pair[0]);
    descriptor_close(&pair[1]);
}

void ends_close(struct ends *ends)
{
    close_pair(ends->control);
    close_pair(ends->input);
    close_pair(ends->output);
    close_pair(ends->error);
    close_pair(ends->terminal);
}

static sysret open_terminal(struct ends *ends, const struct start_request *request)
{
    sysret error = terminal_open(request->rows, request->columns, request->uid, ends->terminal);
    if (error)
        return error;
    if (request->flags & START_STDIN) {
        error = SYS(fcntl, ends->terminal[0], F_DUPFD_CLOEXEC, 3);
        ends->input[1] = (int)error;
    }
    return error < 0 ? error : 0;
}

static sysret open_pipes(struct ends *ends, const struct start_request *request)
{
    sysret error = descriptor_pipe(ends->output);
    if (!error)
        error = descriptor_pipe(ends->error);
    if (!error && request->flags & START_STDIN)
        error = descriptor_pipe(ends->input);
    if (error)
        return error;
    (void)SYS(fcntl, ends->output[0], F_SETFL, O_NONBLOCK);
    (void)SYS(fcntl, ends->error[0], F_SETFL, O_NONBLOCK);
    if (ends->input[1] >= 0)
        (void)SYS(fcntl, ends->input[1], F_SETFL, O_NONBLOCK);
    return 0;
}

sysret ends_open_control(struct ends *ends)
{
    sysret error = SYS(socketpair, AK_AF_UNIX, AK_SOCK_SEQPACKET | O_CLOEXEC, 0, ends->control);
    if (error)
        ends->control[0] = ends->control[1] = -1;
    return error;
}

sysret ends_open(struct ends *ends, const struct start_request *request, enum stage *stage)
{
    struct resource_limit files = {0};
    sysret error;
    *ends = (struct ends){{-1, -1}, {-1, -1}, {-1, -1}, {-1, -1}, {-1, -1}};
    *stage = request->terminal ? STAGE_TERMINAL : STAGE_FORK;
    error = request->terminal ? open_terminal(ends, request) : open_pipes(ends, request);
    if (error)
        return error;
    *stage = STAGE_FORK;
    (void)SYS(prlimit64, 0, RLIMIT_NOFILE, NULL, &files);
    return files.soft && (uint64_t)(request->terminal ? ends->terminal[1] : ends->error[1]) + KEPT_FREE > files.soft ? -EMFILE : 0;
}
