// claim: no kernel setting of the host is open for writing
// row: host-control
// matrix: B
// control: safe
int main(void)
{
    const char *paths[] = {
        "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname",
        "/proc/sys/kernel/sysrq", "/proc/sys/kernel/ns_last_pid", "/proc/sys/kernel/panic", "/proc/sys/vm/overcommit_memory",
        "/proc/sys/vm/drop_caches", "/proc/sys/fs/file-max", "/proc/sys/fs/binfmt_misc/register", "/proc/sys/kernel/randomize_va_space",
        "/proc/sys/net/ipv4/ip_forward", "/proc/sys/user/max_user_namespaces", "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity",
        "/proc/mtrr", "/proc/scsi/scsi", "/proc/self/oom_score_adj.absent", "/proc/fs/nfsd/threads",
    };
    for (unsigned i = 0; i < sizeof paths / sizeof paths[0]; i++)
        verdict(paths[i], open(paths[i], O_WRONLY | O_CLOEXEC));
    return 0;
}
