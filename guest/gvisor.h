/* gVisor is known by a system call that it does not have. Each user of this says what else is different there. */
#ifndef AK_GVISOR_H
#define AK_GVISOR_H

#include "sys.h"

static inline bool gvisor_is_kernel(void) { return SYS(setfsuid, -1) == -ENOSYS; }

#endif
