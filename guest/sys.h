/*
 * The border to the kernel: raw system calls, no C library.
 *
 * The guest must run where there is no libc (an image with nothing else in it) and stay small, so it talks to Linux directly. Every wrapper
 * returns the kernel's value: 0 or more, or a negative errno. Nothing here keeps state. With -DAK_HOSTED the same sources are linked
 * with a C library and its sanitizers for the unit tests and fuzzers.
 */
#ifndef AK_SYS_H
#define AK_SYS_H

#include <asm/unistd.h>
#include <linux/errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef long sysret; /* >= 0, or -errno */

#if defined(__x86_64__)
#define AK_ARCH 1u
static inline sysret sys_call6(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
#define AK_ARCH 2u
static inline sysret sys_call6(long number, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}
#else
#error "agentkernel's guest supports x86_64 and aarch64"
#endif

/* SYS(name, arguments...): up to six arguments of any integer or pointer type. */
#define SYS_PICK(_0, _1, _2, _3, _4, _5, _6, macro, ...) macro
#define SYS(...) SYS_PICK(__VA_ARGS__, SYS6, SYS5, SYS4, SYS3, SYS2, SYS1, SYS0, )(__VA_ARGS__)
#define SYS0(n) sys_call6(__NR_##n, 0, 0, 0, 0, 0, 0)
#define SYS1(n, a) sys_call6(__NR_##n, (long)(a), 0, 0, 0, 0, 0)
#define SYS2(n, a, b) sys_call6(__NR_##n, (long)(a), (long)(b), 0, 0, 0, 0)
#define SYS3(n, a, b, c) sys_call6(__NR_##n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define SYS4(n, a, b, c, d) sys_call6(__NR_##n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define SYS5(n, a, b, c, d, e) sys_call6(__NR_##n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define SYS6(n, a, b, c, d, e, f) sys_call6(__NR_##n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

/* The few libc functions that compilers call behind one's back, and the string helpers that the guest needs (lib.c). */
#ifdef AK_HOSTED
#include <string.h>
#else
void *memcpy(void *to, const void *from, size_t n);
void *memmove(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
#endif

bool ak_streq(const char *a, const char *b);
/* Parses all of `s` as a decimal (base 10) or octal (base 8) number; false if it is not one or does not fit. */
bool ak_parse_u64(const char *s, unsigned base, uint64_t *value);
/* Writes `value` in decimal with a NUL; `out` has room for 21 bytes; returns the length. */
size_t ak_format_u64(char *out, uint64_t value);
/* Writes all of `n` bytes, through EINTR and short writes; 0 or -errno. */
sysret ak_write_all(int fd, const void *data, size_t n);
/* Anonymous zeroed pages, or NULL. */
void *ak_map(size_t bytes);
void ak_unmap(void *memory, size_t bytes);
_Noreturn void ak_exit(int status);
/* Closes the descriptor, unless it is an error instead of one. */
static inline void ak_close(sysret fd) { if (fd >= 0) (void)SYS(close, fd); }

static inline uint16_t ak_get_u16(const uint8_t *p) { uint16_t v; memcpy(&v, p, sizeof v); return v; }
static inline uint32_t ak_get_u32(const uint8_t *p) { uint32_t v; memcpy(&v, p, sizeof v); return v; }
static inline uint64_t ak_get_u64(const uint8_t *p) { uint64_t v; memcpy(&v, p, sizeof v); return v; }
static inline void ak_put_u16(uint8_t *p, uint16_t v) { memcpy(p, &v, sizeof v); }
static inline void ak_put_u32(uint8_t *p, uint32_t v) { memcpy(p, &v, sizeof v); }
static inline void ak_put_u64(uint8_t *p, uint64_t v) { memcpy(p, &v, sizeof v); }

#endif
