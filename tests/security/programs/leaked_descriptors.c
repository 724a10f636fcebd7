// claim: a command inherits no descriptor through which the host's files could be reached (CVE-2024-21626)
// row: agent
// matrix: B
// control: safe
int main(void)
{
    char path[4096];
    for (int fd = 3; fd < 4096; fd++) {
        if (fcntl(fd, F_GETFD) < 0)
            continue;
        reached("descriptor %d", fd);
        snprintf(path, sizeof path, "../../../../../../../..%s", planted("AK_SECRET"));
        show(openat(fd, path, O_RDONLY));
    }
    return 0;
}
