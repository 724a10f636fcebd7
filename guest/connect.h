/* Connections inside: opened, joined to standard input and output, and asked of the sandbox's proxy. */
#ifndef AK_CONNECT_H
#define AK_CONNECT_H

#include "sys.h"

/* Opens a connection to a port of loopback (127.0.0.1, or ::1 where nobody listens there): a descriptor or -errno. */
sysret connect_loopback(uint16_t port);
/* Passes bytes between standard input and output and a connection until that has no more of them; 0 or errno. */
int connect_join(int connection);

/* `agentkernel-guest connect HOST PORT`, for ssh as its ProxyCommand: a tunnel through the sandbox's proxy. Returns the exit code: 0, 1 for a
 * refusal, which is told on standard error, and 2 for words that are none. `envp`: its variables. */
int connect_main(int argc, char **argv, char *const *envp);

#endif
