// claim: pages of files that it writes and maps count for the sandbox and are taken back from it, not from the host
// row: limits
// matrix: A
// control: none(a bomb)
// bomb: yes
int main(void)
{
    char path[4096];
    in_work(path, sizeof path, "mapped");
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    for (;;) {
        if (ftruncate(fd, 4ll << 30) < 0)
            sleep_ms(1);
        char *memory = mmap(NULL, 4ll << 30, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (memory == MAP_FAILED)
            outlast();
        for (long long i = 0; i < 4ll << 30; i += 4096)
            memory[i] = 1;
    }
}
