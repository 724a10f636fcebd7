// claim: calls that only an administrator makes are refused
// row: host-control
// matrix: B
// control: safe
int main(void)
{
    verdict_past_permission("set the host name", syscall(SYS_sethostname, "x", -1));
    verdict_past_permission("set the domain name", syscall(SYS_setdomainname, "x", -1));
    verdict_past_permission("process accounting", syscall(SYS_acct, "/agentkernel-absent"));
    return 0;
}
