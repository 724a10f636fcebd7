// claim: a tree that stops itself is killed at its deadline
// row: deadline
// matrix: A
// control: safe
int main(void)
{
    for (int i = 0; i < 3; i++)
        if (fork() == 0) {
            setsid();
            raise(SIGSTOP);
            outlast();
        }
    raise(SIGSTOP);
    outlast();
}
