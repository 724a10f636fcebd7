/* The few lines that a unit test of the guest needs. */
#ifndef AK_CHECK_H
#define AK_CHECK_H

#include <stdio.h>
#include <stdlib.h>

static int check_failures;

#define CHECK(condition)                                                                 \
    do {                                                                                 \
        if (!(condition)) {                                                              \
            printf("%s:%d: %s: not %s\n", __FILE__, __LINE__, __func__, #condition);     \
            check_failures++;                                                            \
        }                                                                                \
    } while (0)

#define CHECK_RESULT() (printf("%s: %s\n", __FILE__, check_failures ? "FAILED" : "ok"), check_failures != 0)

/* `n` bytes in memory of exactly that size, so that the sanitizer sees a read beyond it. */
static inline void *check_copy(const void *bytes, size_t n)
{
    unsigned char *copy = malloc(n ? n : 1);
    for (size_t i = 0; i < n; i++)
        copy[i] = ((const unsigned char *)bytes)[i];
    return copy;
}

#endif
