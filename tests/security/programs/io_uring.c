// claim: io_uring, which a filter cannot look into, is out of reach
// row: syscalls
// matrix: B
// control: safe
int main(void)
{
    uint32_t parameters[30] = {0};
    verdict("make a ring", syscall(SYS_io_uring_setup, 4, parameters));
    return 0;
}
