// claim: the host cannot be rebooted, nor the sandbox's first process made to exit that way
// row: host-control
// matrix: B
// control: safe
int main(void)
{
    /* Wrong magic numbers: the kernel looks at them only after it has allowed the call. */
    verdict_past_permission("reboot", syscall(SYS_reboot, 0, 0, 0, NULL));
    return 0;
}
