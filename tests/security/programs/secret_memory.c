// claim: memory that even the host cannot inspect is not to be had
// row: syscalls
// matrix: B
// control: safe
int main(void)
{
    verdict("secret memory", syscall(SYS_memfd_secret, 0));
    return 0;
}
