// claim: no BPF object can be made
// row: syscalls
// matrix: B
// control: safe
int main(void)
{
    struct {
        uint32_t type, key_size, value_size, entries, flags, rest[13];
    } attributes = {.type = 2, .key_size = 4, .value_size = 8, .entries = 1};
    verdict("make a BPF map", syscall(SYS_bpf, 0 /* MAP_CREATE */, &attributes, sizeof attributes));
    return 0;
}
