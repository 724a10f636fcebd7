// claim: the memory of a host process cannot be read through /proc
// row: processes
// matrix: B
// control: safe
int main(void)
{
    char path[64], buffer[256] = {0};
    snprintf(path, sizeof path, "/proc/%d/mem", victim());
    int fd = open(path, O_RDONLY);
    ssize_t size = pread(fd, buffer, sizeof buffer - 1, (off_t)strtoull(planted("AK_ADDRESS"), NULL, 16));
    printf("%zd %s\n", size, buffer);
    return 0;
}
