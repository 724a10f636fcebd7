/* File descriptors: opening pairs, keeping them off 0-2, closing all others. */
#ifndef AK_DESCRIPTOR_H
#define AK_DESCRIPTOR_H

#include "sys.h"

#include <linux/fcntl.h>

#ifndef AT_FDCWD
#define AT_FDCWD -100
#endif

#define DESCRIPTORS_MAX 16384u /* the agent raises its own limit to this at most, so nothing above is open where close_range is missing */

/* Closes and forgets; -1 is fine. */
void descriptor_close(int *fd);
/* A pipe: [0] to read, [1] to write, both close-on-exec; 0 or -errno. */
sysret descriptor_pipe(int pair[2]);
sysret descriptor_nonblocking(int fd, bool on);
/* Closes every descriptor but the `n` (at most 32) of `keep`; entries of -1 are skipped. */
void descriptor_close_others(const int *keep, unsigned n);

#endif
