/*
 * The first process of a sandbox whose agent runs behind a kernel of its own: it joins the agent's only stream, which knows no connections, to
 * whoever connects to the listening socket. The newest connection wins.
 */
#ifndef AK_KEEPER_H
#define AK_KEEPER_H

#include "sys.h"

/* Serves until `program`, a child, has ended; reaps every other child, too. `stream` is a socket. Ends the process. */
_Noreturn void keeper_serve(int listener, int stream, int program);

#endif
