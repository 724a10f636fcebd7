// claim: files in /tmp and /var/tmp end at the limit, as memory and as disk
// row: limits
// matrix: A
// control: none(a bomb)
// bomb: yes
int main(void)
{
    static char block[1 << 20];
    int first = open("/tmp/fill", O_WRONLY | O_CREAT, 0600), second = open("/var/tmp/fill", O_WRONLY | O_CREAT, 0600);
    memset(block, 1, sizeof block);
    for (int full = 0; full < 2;) {
        full = write(first, block, sizeof block) < 0;
        full += write(second, block, sizeof block) < 0;
    }
    outlast();
}
