/*
 * The network namespace. To make it takes longer than to make all the other namespaces, so the outer process makes it while the inner one builds the root,
 * in the inner one's user namespace, and hands it over.
 */
#ifndef AK_NETWORK_H
#define AK_NETWORK_H

#include "sandbox.h"

/* All do nothing if the plan has none. Outside, before GO. */
sysret network_prepare(struct sandbox *sandbox);

/* Outside, after GO: leaves the caller's network for a new one, in the sandbox's user namespace; a descriptor of it. */
sysret network_make(const struct sandbox *sandbox);

/* Outside, as its last act: what network_make returned. */
sysret network_hand_over(const struct sandbox *sandbox, sysret made);

/* Inside: enters it; does nothing when called again. */
sysret network_join(struct sandbox *sandbox);

#endif
