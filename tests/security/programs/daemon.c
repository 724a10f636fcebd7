// claim: a daemon that left its session and its parent ends with the sandbox
// row: leftovers
// matrix: A
// control: safe
int main(void)
{
    if (fork() == 0) {
        setsid();
        signal(SIGHUP, SIG_IGN);
        signal(SIGTERM, SIG_IGN);
        if (fork() != 0)
            _exit(0);
        for (int fd = 0; fd < 64; fd++)
            close(fd);
        outlast();
    }
    wait(NULL);
    return 0;
}
