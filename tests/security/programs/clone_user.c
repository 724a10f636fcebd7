// claim: no user namespace can be made by clone, whatever other flags hide it
// row: namespaces
// matrix: B
// control: safe
int main(void)
{
    const unsigned long flags[] = {CLONE_NEWUSER, CLONE_NEWUSER | CLONE_NEWNS, CLONE_NEWUSER | CLONE_NEWPID, 0xf00000000ul | CLONE_NEWUSER};
    for (int i = 0; i < 4; i++) {
        long child = syscall(SYS_clone, flags[i] | SIGCHLD, 0ul, 0ul, 0ul, 0ul);
        if (child == 0)
            _exit(0);
        verdict("clone into a user namespace", child);
        if (child > 0)
            waitpid((pid_t)child, NULL, 0);
    }
    return 0;
}
