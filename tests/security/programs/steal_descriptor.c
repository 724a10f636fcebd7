// claim: no descriptor of the host, the agent or a supervisor can be fetched by pidfd_getfd
// row: agent
// matrix: B
// control: safe
int main(void)
{
    const pid_t targets[] = {victim(), getppid(), 1};
    for (int i = 0; i < 2 + inside(); i++) {
        long process = syscall(SYS_pidfd_open, targets[i], 0);
        for (int number = 0; number < (i == 0 ? 32 : 8); number++) {
            long fd = syscall(SYS_pidfd_getfd, process, number, 0);
            if (fd >= 0) {
                reached("descriptor %d of process %d", number, targets[i]);
                if (i == 0) {
                    lseek((int)fd, 0, SEEK_SET);
                    show((int)fd);
                }
            }
        }
    }
    return 0;
}
