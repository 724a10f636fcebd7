// claim: written files end at the disk limit, wherever they are
// row: limits
// matrix: A
// control: none(a bomb)
// bomb: yes
int main(void)
{
    static char block[1 << 20];
    char path[4096], name[32];
    memset(block, 1, sizeof block);
    for (int i = 0;; i++) {
        snprintf(name, sizeof name, "big%d", i % 1000);
        in_work(path, sizeof path, name);
        int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (fd < 0 || write(fd, block, sizeof block) < 0)
            sleep_ms(1);
        close(fd);
    }
}
