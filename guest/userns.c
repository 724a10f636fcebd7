/* The sandbox's user namespace, as the outer process sees it. */
#include "userns.h"

#include "procfs.h"

#include <linux/fcntl.h>

sysret userns_of_inner(struct sandbox *sandbox)
{
    if (sandbox->userns < 0) {
        sysret userns = procfs_open(sandbox->inner, "ns/user", O_RDONLY);
        if (userns < 0)
            return userns;
        sandbox->userns = (int)userns;
    }
    return sandbox->userns;
}
