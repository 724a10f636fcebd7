// claim: the agent's and a supervisor's memory, environment and map cannot be read
// row: agent
// matrix: B
// control: safe
int main(void)
{
    const char *names[] = {"mem", "environ", "maps", "auxv", "stack", "syscall"};
    const pid_t targets[] = {getppid(), 1};
    char path[64], byte;
    for (int t = 0; t < 1 + inside(); t++)
        for (int i = 0; i < 6; i++) {
            snprintf(path, sizeof path, "/proc/%d/%s", targets[t], names[i]);
            int fd = open(path, O_RDONLY | O_CLOEXEC);
            if (fd >= 0 && (i == 0 || read(fd, &byte, 1) == 1))
                reached("%s", path);
        }
    return 0;
}
