// claim: no namespace of another process can be entered
// row: namespaces
// matrix: B
// control: safe
int main(void)
{
    const char *kinds[] = {"mnt", "net", "ipc", "uts", "cgroup", "pid", "user"};
    const pid_t targets[] = {victim(), 1, getppid()};
    char path[64];
    for (int t = 0; t < 1 + 2 * inside(); t++)
        for (int i = 0; i < 7; i++) {
            snprintf(path, sizeof path, "/proc/%d/ns/%s", targets[t], kinds[i]);
            int fd = open(path, O_RDONLY);
            if (fd >= 0)
                verdict(path, setns(fd, 0));
        }
    long process = syscall(SYS_pidfd_open, victim(), 0);
    verdict("enter by pidfd", setns((int)process, CLONE_NEWNS | CLONE_NEWNET));
    show_file(planted("AK_SECRET"));
    return 0;
}
