// claim: the first page cannot be mapped, so the kernel's null pointers lead nowhere
// row: syscalls
// matrix: B
// control: safe
int main(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    verdict("map the first page", page == MAP_FAILED ? -1 : 0);
    return 0;
}
