/* New file systems (mount(2)), always on a directory given by a descriptor. */
#ifndef AK_FILESYSTEM_H
#define AK_FILESYSTEM_H

#include "sys.h"

/* Mounts a new file system on the directory; `attributes` are MOUNT_ATTR_*. Changes the working directory. */
sysret filesystem_mount(int directory, const char *type, const char *options, uint64_t attributes);

#endif
