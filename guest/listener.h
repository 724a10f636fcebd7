/* Where hosts come from: a listening unix socket, or a device without connections. */
#ifndef AK_LISTENER_H
#define AK_LISTENER_H

#include "sys.h"

/*
 * Makes the unix socket `path` (a stale one is replaced) and listens; the descriptor or -errno. Its mode is 0600, or 0666 where the host's user
 * has no uid inside: then only the directories above it keep others away.
 */
sysret listener_open(const char *path, bool any_uid);
/* The next connection, non-blocking; -EPERM for one that was turned away; -errno. */
sysret listener_accept(int listener, int proc, bool is_init);
/* Makes a stream non-blocking and, if it is a terminal, transparent. */
void stream_prepare(int fd);

#endif
