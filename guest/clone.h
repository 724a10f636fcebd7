/*
 * A child that borrows its parent's memory until it has executed something, as vfork(2) has it, but on a stack of its own: whatever the
 * compiler does with the parent's frame, the child writes to none of it. Where a fork copies an address space dearly (gVisor builds one
 * of the host's for each), this is most of what starting a command takes.
 */
#ifndef AK_CLONE_H
#define AK_CLONE_H

#include "sys.h"

/* clone(2) or clone3(2) with these two arguments, which name the stack's end: 0 never comes back, since the child runs `run(argument)`. */
static inline sysret clone_onto(long number, long first, long second, void (*run)(void *), void *argument)
{
#if defined(__x86_64__)
    sysret result;
    register void (*child)(void *) __asm__("r12") = run;
    register void *given __asm__("r13") = argument;
    register long r10 __asm__("r10") = 0;
    register long r8 __asm__("r8") = 0;
    __asm__ volatile("syscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\txor %%ebp, %%ebp\n\tmov %%r13, %%rdi\n\tcall *%%r12\n\thlt\n1:"
                     : "=a"(result)
                     : "a"(number), "D"(first), "S"(second), "d"(0L), "r"(r10), "r"(r8), "r"(child), "r"(given)
                     : "rcx", "r11", "memory", "cc");
    return result;
#elif defined(__aarch64__)
    register void (*child)(void *) __asm__("x19") = run;
    register void *given __asm__("x20") = argument;
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = first;
    register long x1 __asm__("x1") = second;
    register long x2 __asm__("x2") = 0;
    register long x3 __asm__("x3") = 0;
    register long x4 __asm__("x4") = 0;
    __asm__ volatile("svc 0\n\tcbnz x0, 1f\n\tmov x29, #0\n\tmov x30, #0\n\tmov x0, x20\n\tblr x19\n\tbrk #0\n1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(child), "r"(given)
                     : "memory", "cc");
    return x0;
#endif
}

#endif
