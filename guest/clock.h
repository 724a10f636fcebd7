/* Time and process helpers that are one system call each. */
#ifndef AK_CLOCK_H
#define AK_CLOCK_H

#include "sys.h"

#include <linux/signal.h>
#include <linux/time.h>
#include <linux/time_types.h>

static inline uint64_t clock_us(int clock)
{
    struct __kernel_timespec now = {0};
    (void)SYS(clock_gettime, clock, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static inline uint64_t monotonic_us(void) { return clock_us(CLOCK_MONOTONIC); }
static inline uint64_t monotonic_ms(void) { return clock_us(CLOCK_MONOTONIC) / 1000u; }
static inline uint64_t unix_ms(void) { return clock_us(CLOCK_REALTIME) / 1000u; }

/* fork(2): there is no such system call on aarch64. */
static inline sysret process_fork(void) { return SYS(clone, SIGCHLD, 0, 0, 0, 0); }

#endif
