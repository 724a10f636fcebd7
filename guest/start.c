/* The process entry: the kernel's stack to main(argc, argv). */
#include "sys.h"

int ak_main(int argc, char **argv);

#ifdef AK_HOSTED
int main(int argc, char **argv)
{
    return ak_main(argc, argv);
}
#else
__attribute__((used)) _Noreturn void ak_entry(long *stack)
{
    ak_exit(ak_main((int)stack[0], (char **)(stack + 1)));
}

#if defined(__x86_64__)
__asm__(".text\n.globl _start\n.type _start,@function\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall ak_entry\n\thlt\n");
#else
__asm__(".text\n.globl _start\n.type _start,%function\n_start:\n\tmov x29, #0\n\tmov x30, #0\n\tmov x0, sp\n\tand sp, x0, #-16\n\tbl ak_entry\n\tbrk #0\n");
#endif
#endif
