// claim: dead children that nobody waits for are gone with the command
// row: leftovers
// matrix: A
// control: safe
int main(void)
{
    for (int i = 0; i < 200; i++)
        if (fork() == 0)
            _exit(0);
    if (fork() == 0) { /* one who lives on and never waits for its own */
        setsid();
        for (int i = 0; i < 50; i++)
            if (fork() == 0)
                _exit(0);
        for (int fd = 0; fd < 64; fd++)
            close(fd);
        outlast();
    }
    return 0;
}
