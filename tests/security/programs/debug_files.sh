# claim: the kernel's debugging and tracing file systems show nothing
# row: kernel-objects
# matrix: B
# control: safe
found=no
for each in /sys/kernel/debug/sched /sys/kernel/tracing/trace /sys/kernel/security/lsm /sys/kernel/btf/vmlinux /sys/fs/bpf /sys/kernel/config; do
    if [ -n "$(ls -A "$each" 2>/dev/null)" ]; then echo "REACHED: $each"; found=yes; fi
done
[ $found = yes ] || echo "absent: no such file system is mounted"
