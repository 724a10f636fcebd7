/* What the outer process hands over to the inner one: their memory is not shared, but their descriptors are. */
#ifndef AK_HANDOVER_H
#define AK_HANDOVER_H

#include "sandbox.h"

/* Makes the pipe; before the inner process is. */
sysret handover_begin(struct sandbox *sandbox);

/* Outside: sends `size` bytes, less than a pipe holds. */
sysret handover_send(const struct sandbox *sandbox, const void *data, size_t size);

/* Inside: waits for them. Ends the process if the outer one ended without sending them, or if there is no caller any more. */
void handover_receive(const struct sandbox *sandbox, void *data, size_t size);

#endif
