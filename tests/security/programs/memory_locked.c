// claim: locked memory is limited
// row: limits
// matrix: A
// control: safe
int main(void)
{
    size_t size = 64 << 20;
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    verdict("lock 64 MiB", mlock(memory, size));
    return 0;
}
