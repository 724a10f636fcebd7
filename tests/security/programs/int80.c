// claim: the i386 interface, whose numbers mean other calls, is out of reach
// row: syscalls
// matrix: B
// control: safe
#include <setjmp.h>
static sigjmp_buf trapped;
static void on_trap(int number)
{
    siglongjmp(trapped, number);
}
int main(void)
{
#ifdef __x86_64__
    long result;
    signal(SIGSEGV, on_trap);
    signal(SIGSYS, on_trap);
    int caught = sigsetjmp(trapped, 1);
    if (caught) {
        printf("%s: int 0x80: signal %d\n", caught == SIGSYS ? "blocked" : "absent", caught);
        return 0;
    }
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20 /* getpid */) : "memory", "r8", "r9", "r10", "r11");
    errno = result < 0 ? (int)-result : 0;
    verdict("i386 getpid", result < 0 ? -1 : result);
#else
    puts("absent: i386");
#endif
    return 0;
}
