// claim: no host process's memory can be advised away
// row: processes
// matrix: B
// control: safe
int main(void)
{
    long process = syscall(SYS_pidfd_open, victim(), 0);
    verdict("open a pidfd of a host process", process);
    return 0;
}
