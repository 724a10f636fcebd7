// claim: no user namespace can be made by clone3, whose flags no filter can see (CVE-2021-41133's class)
// row: namespaces
// matrix: B
// control: safe
int main(void)
{
    uint64_t arguments[11] = {CLONE_NEWUSER, 0, 0, 0, SIGCHLD};
    long child = syscall(SYS_clone3, arguments, sizeof arguments);
    if (child == 0)
        _exit(0);
    verdict("clone3 into a user namespace", child);
    return 0;
}
