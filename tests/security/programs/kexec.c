// claim: no kernel can be loaded
// row: host-control
// matrix: B
// control: safe
int main(void)
{
    verdict_past_permission("load a kernel", syscall(SYS_kexec_load, 0ul, 0ul, NULL, 0xfffful));
    verdict_past_permission("load a kernel from a file", syscall(SYS_kexec_file_load, -1, -1, 0ul, NULL, 0xfffful));
    return 0;
}
