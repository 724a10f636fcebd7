// claim: 16-bit segments, a recurring hole, cannot be made
// row: syscalls
// matrix: B
// control: safe
int main(void)
{
#ifdef __x86_64__
    uint32_t entry[4] = {0, 0, 0, 0x52}; /* a 16-bit data segment */
    verdict("write a segment", syscall(SYS_modify_ldt, 1, entry, sizeof entry));
#else
    puts("absent: segments");
#endif
    return 0;
}
