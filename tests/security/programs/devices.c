// claim: no device of the host is there to be opened
// row: devices
// matrix: B
// control: safe
int main(void)
{
    const char *paths[] = {
        "/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg", "/dev/console", "/dev/tty0", "/dev/tty1", "/dev/ttyS0", "/dev/vda", "/dev/vdb", "/dev/sda", "/dev/nvme0n1",
        "/dev/loop-control", "/dev/loop0", "/dev/fuse", "/dev/kvm", "/dev/net/tun", "/dev/vhost-net", "/dev/vsock", "/dev/vhost-vsock", "/dev/userfaultfd",
        "/dev/cpu/0/msr", "/dev/mapper/control", "/dev/btrfs-control", "/dev/snapshot", "/dev/uinput", "/dev/input/event0", "/dev/dri/card0", "/dev/nvidia0",
        "/dev/watchdog", "/dev/hpet", "/dev/rtc0", "/dev/autofs", "/dev/cuse", "/dev/uhid", "/dev/vcs", "/dev/fb0", "/dev/initctl",
    };
    for (unsigned i = 0; i < sizeof paths / sizeof paths[0]; i++)
        if (inside() || strcmp(paths[i], "/dev/kmsg") == 0) /* opening some has effects: a watchdog is armed by it */
            verdict(paths[i], open(paths[i], O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    return 0;
}
