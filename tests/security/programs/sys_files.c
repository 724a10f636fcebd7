// claim: nothing below /sys is open for writing
// row: host-control
// matrix: B
// control: safe
int main(void)
{
    const char *paths[] = {
        "/sys/kernel/uevent_helper", "/sys/power/state", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/mm/ksm/run",
        "/sys/kernel/profiling", "/sys/kernel/rcu_expedited", "/sys/module/printk/parameters/time", "/sys/devices/system/cpu/cpu0/online",
        "/sys/fs/cgroup/memory/release_agent", "/sys/kernel/debug/sched/debug", "/sys/firmware/efi/efivars", "/sys/bus/pci/rescan",
    };
    for (unsigned i = 0; i < sizeof paths / sizeof paths[0]; i++)
        verdict(paths[i], open(paths[i], O_WRONLY | O_CLOEXEC));
    return 0;
}
