// claim: the deadline kills the daemon along with the command
// row: deadline
// matrix: A
// control: safe
int main(void)
{
    if (fork() == 0) {
        setsid();
        if (fork() != 0)
            _exit(0);
        signal(SIGTERM, SIG_IGN);
        for (int fd = 0; fd < 64; fd++)
            close(fd);
        outlast();
    }
    wait(NULL);
    signal(SIGTERM, SIG_DFL);
    outlast();
}
