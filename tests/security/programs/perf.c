// claim: performance counters are out of reach
// row: syscalls
// matrix: B
// control: safe
int main(void)
{
    struct {
        uint32_t type, size;
        uint64_t config, rest[13];
    } attributes = {.type = 1 /* software */, .size = sizeof attributes, .config = 0};
    verdict("open a performance counter", syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0ul));
    return 0;
}
