// claim: no control group can be changed: not its limits, not its members, not the v1 release agent that would run on the host
// row: limits
// matrix: B
// control: safe
#include <ftw.h>
static int look(const char *path, const struct stat *found, int kind, struct FTW *at)
{
    const char *name = path + at->base;
    (void)found;
    if (kind == FTW_F && (!strcmp(name, "release_agent") || !strcmp(name, "cgroup.procs") || !strcmp(name, "tasks") || !strcmp(name, "notify_on_release") || !strcmp(name, "memory.limit_in_bytes") || !strcmp(name, "pids.max"))) {
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd >= 0) {
            reached("%s", path);
            close(fd);
            return 1;
        }
    }
    return 0;
}
int main(void)
{
    nftw("/sys/fs/cgroup", look, 16, FTW_PHYS);
    return 0;
}
