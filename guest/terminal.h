/* Pseudo-terminals. */
#ifndef AK_TERMINAL_H
#define AK_TERMINAL_H

#include "sys.h"

/* Opens a pair of the given size, owned by `uid` (UINT32_MAX: unchanged); 0 or -errno. The master does not block. */
sysret terminal_open(uint16_t rows, uint16_t columns, uint32_t uid, int pair[2]);
sysret terminal_resize(int master, uint16_t rows, uint16_t columns);
/* Whether the kernel changes a terminal's size without a SIGWINCH. */
bool terminal_is_silent(void);
/* What to type so that a reader sees the end of input; returns the length, 1 or 2. */
size_t terminal_end(int master, bool at_line_start, char out[2]);

#endif
