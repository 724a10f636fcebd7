// claim: swap cannot be switched on or off
// row: host-control
// matrix: B
// control: safe
int main(void)
{
    verdict_past_permission("swap on", syscall(SYS_swapon, "/agentkernel-absent", 0));
    verdict_past_permission("swap off", syscall(SYS_swapoff, "/agentkernel-absent"));
    return 0;
}
