/* Files of a process in /proc, by pid. */
#ifndef AK_PROCFS_H
#define AK_PROCFS_H

#include "sys.h"

/* Opens /proc/<pid>/<name>; the descriptor or -errno. */
sysret procfs_open(int pid, const char *name, unsigned flags);

/* Writes the text to /proc/<pid>/<name> in one go, as id maps ask for. */
sysret procfs_write(int pid, const char *name, const char *text, size_t length);

#endif
