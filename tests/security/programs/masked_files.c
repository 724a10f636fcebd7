// claim: what the kernel tells about the whole host is hidden
// row: kernel-objects
// matrix: B
// control: safe
int main(void)
{
    const char *paths[] = {
        "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/vmallocinfo", "/proc/kallsyms", "/proc/modules",
        "/proc/kpagecount", "/proc/kpageflags", "/proc/slabinfo", "/proc/iomem", "/proc/interrupts", "/sys/firmware/dmi/tables/DMI",
        "/sys/kernel/notes", "/sys/kernel/vmcoreinfo",
    };
    char byte;
    for (unsigned i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        int fd = open(paths[i], O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        ssize_t size = fd < 0 ? -1 : read(fd, &byte, 1);
        if (size == 1)
            reached("%s", paths[i]);
        else
            printf("blocked: %s\n", paths[i]);
    }
    return 0;
}
