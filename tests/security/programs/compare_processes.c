// claim: no host process can be inspected by kcmp
// row: processes
// matrix: B
// control: safe
int main(void)
{
    verdict("compare with a process of the host", syscall(SYS_kcmp, getpid(), victim(), 0, 0, 0));
    return 0;
}
