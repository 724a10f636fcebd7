// claim: a storm of cheap system calls and context switches slows nobody else
// row: limits
// matrix: A
// control: none(a bomb)
// bomb: yes
int main(void)
{
    for (int i = 0; i < 32; i++)
        if (fork() == 0)
            break;
    for (;;) {
        sched_yield();
        getppid();
        open("/agentkernel-absent", O_RDONLY);
    }
}
