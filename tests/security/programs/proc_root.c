// claim: the host's files cannot be reached through another process's root or working directory
// row: host-files
// matrix: B
// control: safe
int main(void)
{
    char path[4096];
    const pid_t through[] = {victim(), 1, getppid()};
    for (int i = 0; i < 1 + 2 * inside(); i++) {
        snprintf(path, sizeof path, "/proc/%d/root%s", through[i], planted("AK_SECRET"));
        show_file(path);
        snprintf(path, sizeof path, "/proc/%d/cwd/../../../../../../../..%s", through[i], planted("AK_SECRET"));
        show_file(path);
    }
    return 0;
}
