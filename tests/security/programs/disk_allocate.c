// claim: space that is only reserved ends at the disk limit, too
// row: limits
// matrix: A
// control: none(a bomb)
// bomb: yes
int main(void)
{
    char path[4096];
    in_work(path, sizeof path, "reserved");
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    for (off_t size = 1ll << 40; size > 4096; size /= 2)
        while (fallocate(fd, 0, lseek(fd, 0, SEEK_END), size) == 0)
            ;
    outlast();
}
