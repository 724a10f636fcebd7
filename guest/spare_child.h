/* The child of a spare (spare.h), from when it has nothing more to prepare to when it knows what it is. */
#ifndef AK_SPARE_CHILD_H
#define AK_SPARE_CHILD_H

#include "spawn.h"

/* Waits for the request, and exits when there will be none. Sets the request, the descriptors and, if it came late, the configuration. */
void spare_child_wait(struct spawn *spawn);
/* Says that from here on it is the command; exits if the agent does not count on it any more. */
void spare_child_begin(const struct spawn *spawn);

#endif
