// claim: millions of empty files end at a limit and are removed with the sandbox
// row: limits
// matrix: A
// control: none(a bomb)
// bomb: yes
int main(void)
{
    char path[4096];
    for (long i = 0;; i++) {
        char name[64];
        snprintf(name, sizeof name, "d%ld", i / 1000);
        in_work(path, sizeof path, name);
        if (i % 1000 == 0)
            mkdir(path, 0700);
        snprintf(name, sizeof name, "d%ld/f%ld", i / 1000, i);
        in_work(path, sizeof path, name);
        int fd = open(path, O_WRONLY | O_CREAT, 0600);
        if (fd < 0)
            sleep_ms(1);
        close(fd);
    }
}
