// claim: the x32 interface, whose numbers a careless filter misses, is out of reach
// row: syscalls
// matrix: B
// control: safe
int main(void)
{
#ifdef __x86_64__
    long result = syscall(0x40000000 | SYS_getpid);
    if (result < 0)
        errno = ENOSYS;
    verdict("x32 getpid", result);
    verdict("x32 unshare", syscall(0x40000000 | SYS_unshare, CLONE_NEWUSER));
#else
    puts("absent: x32");
#endif
    return 0;
}
