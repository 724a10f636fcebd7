/* The sandbox's user namespace, as the outer process sees it. */
#ifndef AK_USERNS_H
#define AK_USERNS_H

#include "sandbox.h"

/* Outside, before GO (the inner process is not dumpable after it): a descriptor that stays open, or -errno. */
sysret userns_of_inner(struct sandbox *sandbox);

#endif
