// claim: no kernel module can be loaded or removed
// row: host-control
// matrix: B
// control: safe
int main(void)
{
    verdict_past_permission("load a module", syscall(SYS_init_module, NULL, 0ul, ""));
    verdict_past_permission("load a module from a file", syscall(SYS_finit_module, -1, "", 0));
    verdict_past_permission("remove a module", syscall(SYS_delete_module, "agentkernel_absent", O_NONBLOCK));
    return 0;
}
