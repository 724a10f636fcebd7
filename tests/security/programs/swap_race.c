// claim: swapping a directory for a link, thousands of times while the host reads and writes, never leads outside
// row: files
// matrix: C
// control: safe
// race: swap/kept
int main(void)
{
    char real[4096], other[4096], path[8192];
    in_work(real, sizeof real, "swap");
    in_work(other, sizeof other, "other");
    mkdir(real, 0755);
    snprintf(path, sizeof path, "%s/kept", real);
    int fd = open(path, O_WRONLY | O_CREAT, 0644);
    if (write(fd, "inside\n", 7) < 0 || symlink(planted("AK_CANARY"), other) < 0)
        return 1;
    puts("swapping");
    fflush(stdout);
    for (;;)
        syscall(SYS_renameat2, AT_FDCWD, real, AT_FDCWD, other, 2 /* RENAME_EXCHANGE */);
}
