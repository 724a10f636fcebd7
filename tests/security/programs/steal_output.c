// claim: a command can neither read another command's output nor write into it
// row: processes
// matrix: E
// control: none(it needs a second command of the same sandbox to have a meaning)
static int holds_nothing(int fd)
{
    struct stat found; /* gVisor lets everybody follow these links, though not to pipes and sockets: to the null device */
    return fstat(fd, &found) == 0 && S_ISCHR(found.st_mode) && found.st_rdev == makedev(1, 3);
}

int main(void)
{
    char path[64], buffer[64];
    for (pid_t pid = 1; pid < 64; pid++)
        for (int fd = 0; fd < 16; fd++) {
            if (pid == getpid())
                continue;
            snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
            int stolen = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
            if (stolen >= 0 && pid <= 2 && !holds_nothing(stolen) && read(stolen, buffer, sizeof buffer) >= 0)
                reached("%s", path);
            close(stolen);
        }
    return 0;
}
