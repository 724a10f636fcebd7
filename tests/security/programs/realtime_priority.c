// claim: no priority above the ordinary can be had
// row: limits
// matrix: A
// control: safe
int main(void)
{
    struct sched_param first = {1};
    verdict("real-time scheduling", sched_setscheduler(0, SCHED_FIFO, &first));
    verdict("a higher priority", setpriority(PRIO_PROCESS, 0, -5));
    verdict("real-time input and output", syscall(SYS_ioprio_set, 1, 0, 1 << 13));
    uint64_t deadline[6] = {56 | 6ull << 32, 0, 0, 10000000, 30000000, 30000000};
    verdict("deadline scheduling", syscall(SYS_sched_setattr, 0, deadline, 0));
    return 0;
}
