// claim: the memory of a host process cannot be read by process_vm_readv
// row: processes
// matrix: B
// control: safe
int main(void)
{
    char buffer[256] = {0};
    struct iovec here = {buffer, sizeof buffer}, there = {(void *)(uintptr_t)strtoull(planted("AK_ADDRESS"), NULL, 16), sizeof buffer};
    ssize_t size = process_vm_readv(victim(), &here, 1, &there, 1, 0);
    printf("%zd %.*s\n", size, (int)(size > 0 ? size : 0), buffer);
    return 0;
}
