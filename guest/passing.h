/* Messages between the agent and a process that waits for its request (spare.h): a kind, bytes, and the three descriptors that become 0-2. */
#ifndef AK_PASSING_H
#define AK_PASSING_H

#include "sys.h"

#define PASSED 3 /* descriptors */

enum passing_kind {
    PASS_CONFIGURATION = 1, /* a struct configuration */
    PASS_START,             /* the payload of a START frame, with descriptors */
};

/* A pair of sockets that keep messages apart; 0 or -errno. */
sysret passing_pair(int pair[2]);
/* Sends without waiting; `fds` are PASSED descriptors or NULL. */
sysret passing_send(int socket, enum passing_kind kind, const void *data, size_t size, const int *fds);
/* Waits for a message and returns its size; -EPIPE when there will be none. `fds` are close-on-exec, and 3 or higher as long as 0-2 are taken. */
sysret passing_receive(int socket, enum passing_kind *kind, void *data, size_t room, int fds[PASSED]);

#endif
