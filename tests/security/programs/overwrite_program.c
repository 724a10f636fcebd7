// claim: the program of the agent or of a supervisor cannot be opened for writing (CVE-2019-5736)
// row: agent
// matrix: B
// control: safe
int main(void)
{
    char path[64];
    const pid_t targets[] = {getppid(), 1};
    for (int i = 0; i < 1 + inside(); i++) {
        snprintf(path, sizeof path, "/proc/%d/exe", targets[i]);
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0 && errno == ETXTBSY)
            reached("%s may be written, as soon as it does not run", path);
        else
            verdict(path, fd);
    }
    return 0;
}
