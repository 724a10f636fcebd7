// claim: a parent that waits uninterruptibly (vfork) is killed with its tree
// row: deadline
// matrix: A
// control: safe
int main(void)
{
    signal(SIGTERM, SIG_IGN);
    if (vfork() == 0)
        for (;;)
            pause();
    return 0;
}
