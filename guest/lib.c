/* The handful of library functions that the guest has instead of a C library. */
#include "sys.h"

#include <linux/mman.h>

#ifndef AK_HOSTED
/* Each loop is marked so that the compiler does not turn it back into a call to the function that it implements. */
#if defined(__clang__)
#define AK_PLAIN_LOOP
#else
#define AK_PLAIN_LOOP __attribute__((optimize("no-tree-loop-distribute-patterns")))
#endif

#if defined(__x86_64__)
void *memcpy(void *to, const void *from, size_t n)
{
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    return start;
}

void *memset(void *to, int byte, size_t n)
{
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(byte) : "memory");
    return start;
}
#else
AK_PLAIN_LOOP void *memcpy(void *to, const void *from, size_t n)
{
    uint8_t *out = to;
    const uint8_t *in = from;
    while (n--)
        *out++ = *in++;
    return to;
}

AK_PLAIN_LOOP void *memset(void *to, int byte, size_t n)
{
    uint8_t *out = to;
    while (n--)
        *out++ = (uint8_t)byte;
    return to;
}
#endif

AK_PLAIN_LOOP void *memmove(void *to, const void *from, size_t n)
{
    uint8_t *out = to;
    const uint8_t *in = from;
    if (out <= in || out >= in + n)
        return memcpy(to, from, n);
    while (n--)
        out[n] = in[n];
    return to;
}

AK_PLAIN_LOOP int memcmp(const void *a, const void *b, size_t n)
{
    const uint8_t *x = a, *y = b;
    for (size_t i = 0; i < n; i++)
        if (x[i] != y[i])
            return x[i] < y[i] ? -1 : 1;
    return 0;
}

AK_PLAIN_LOOP size_t strlen(const char *s)
{
    size_t n = 0;
    while (s[n])
        n++;
    return n;
}
#endif

bool ak_streq(const char *a, const char *b)
{
    size_t n = strlen(a);
    return n == strlen(b) && memcmp(a, b, n) == 0;
}

bool ak_parse_u64(const char *s, unsigned base, uint64_t *value)
{
    uint64_t total = 0;
    if (!*s)
        return false;
    for (; *s; s++) {
        unsigned digit = (unsigned)(*s - '0');
        if (*s < '0' || digit >= base || total > (UINT64_MAX - digit) / base)
            return false;
        total = total * base + digit;
    }
    *value = total;
    return true;
}

size_t ak_format_u64(char *out, uint64_t value)
{
    char reversed[20];
    size_t n = 0, length;
    do {
        reversed[n++] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    for (length = 0; n; length++)
        out[length] = reversed[--n];
    out[length] = '\0';
    return length;
}

sysret ak_write_all(int fd, const void *data, size_t n)
{
    const uint8_t *at = data;
    while (n) {
        sysret wrote = SYS(write, fd, at, n);
        if (wrote == -EINTR)
            continue;
        if (wrote < 0)
            return wrote;
        at += wrote;
        n -= (size_t)wrote;
    }
    return 0;
}

void *ak_map(size_t bytes)
{
    sysret address = SYS(mmap, NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return address < 0 && address > -4096 ? NULL : (void *)address;
}

void ak_unmap(void *memory, size_t bytes)
{
    (void)SYS(munmap, memory, bytes);
}

_Noreturn void ak_exit(int status)
{
    for (;;)
        (void)SYS(exit_group, status);
}
