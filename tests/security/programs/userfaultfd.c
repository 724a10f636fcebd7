// claim: userfaultfd, the exploit writer's pause button, is out of reach
// row: syscalls
// matrix: B
// control: safe
int main(void)
{
    verdict("make a userfaultfd", syscall(SYS_userfaultfd, O_CLOEXEC));
    return 0;
}
