// claim: no device node can be made, anywhere that is writable
// row: devices
// matrix: B
// control: safe
#include <sys/sysmacros.h>
int main(void)
{
    char path[4096];
    const char *shared[] = {"/tmp", "/dev/shm", "/var/tmp", "/dev"};
    in_work(path, sizeof path, "disk");
    verdict("block device", mknod(path, S_IFBLK | 0600, makedev(254, 0)));
    unlink(path);
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/agentkernel-memory-%d", shared[i], getpid());
        verdict("the device of memory", mknod(path, S_IFCHR | 0600, makedev(1, 1)));
        unlink(path);
    }
    return 0;
}
