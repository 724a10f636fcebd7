// claim: anonymous memory ends at the limit
// row: limits
// matrix: A
// control: none(a bomb)
// bomb: yes
int main(void)
{
    for (;;) {
        char *memory = mmap(NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory != MAP_FAILED)
            memset(memory, 1, 8 << 20);
        else
            sleep_ms(1);
    }
}
