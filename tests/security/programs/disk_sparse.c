// claim: a sparse file of a terabyte costs neither the sandbox's host nor the one who reads it
// row: files
// matrix: C
// control: safe
// then: read sparse
int main(void)
{
    char path[4096];
    in_work(path, sizeof path, "sparse");
    int fd = open(path, O_WRONLY | O_CREAT, 0644);
    if (ftruncate(fd, 1ll << 40) < 0 && ftruncate(fd, 1ll << 33) < 0)
        printf("blocked: %s\n", strerror(errno));
    return 0;
}
