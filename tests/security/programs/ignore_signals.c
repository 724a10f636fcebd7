// claim: a command that ignores every signal is killed at its deadline
// row: deadline
// matrix: A
// control: safe
int main(void)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    for (int number = 1; number < 65; number++)
        signal(number, SIG_IGN);
    outlast();
}
