// claim: memory in anonymous files ends at the limit
// row: limits
// matrix: A
// control: none(a bomb)
// bomb: yes
int main(void)
{
    static char block[1 << 20];
    memset(block, 1, sizeof block);
    for (;;) {
        int fd = memfd_create("fill", 0);
        for (int i = 0; i < 64; i++)
            if (write(fd, block, sizeof block) < 0)
                sleep_ms(1);
    }
}
