// claim: a process that forks away from every signal is killed at its deadline nevertheless
// row: deadline
// matrix: A
// control: none(outside nobody could catch it again)
// bomb: yes
int main(void)
{
    signal(SIGTERM, SIG_IGN);
    if (fork() != 0)
        outlast();
    for (;;) {
        setsid();
        if (fork() != 0)
            _exit(0);
    }
}
