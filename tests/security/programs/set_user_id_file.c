// claim: no set-user-id program can be left in a directory that host and sandbox share
// row: shared-directory
// matrix: C
// control: safe
// workspace: writable
// judge: modes
int main(void)
{
    char path[4096];
    in_work(path, sizeof path, "trojan");
    int fd = open(path, O_WRONLY | O_CREAT, 0755);
    if (write(fd, "#!/bin/sh\n", 10) < 0)
        return 1;
    verdict("chmod", chmod(path, 04755));
    verdict("fchmod", fchmod(fd, 06755));
    verdict("fchmodat", fchmodat(AT_FDCWD, path, 04755, 0));
    verdict("fchmodat2", syscall(452, AT_FDCWD, path, 04755, 0));
    close(fd);
    in_work(path, sizeof path, "trojan2");
    fd = open(path, O_WRONLY | O_CREAT, 06755);
    struct stat found;
    if (fstat(fd, &found) == 0 && found.st_mode & 06000)
        reached("open with a set-user-id mode");
    in_work(path, sizeof path, "trojan3");
    if (mknod(path, S_IFREG | 04755, 0) == 0 && stat(path, &found) == 0 && found.st_mode & 06000)
        reached("mknod with a set-user-id mode");
    return 0;
}
