// claim: no capability can be gained by capset, ambient sets or securebits
// row: privileges
// matrix: B
// control: safe
int main(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{1u << CAP_SYS_CHROOT, 1u << CAP_SYS_CHROOT, 1u << CAP_SYS_CHROOT}, {0, 0, 0}};
    verdict("take a capability", syscall(SYS_capset, &header, data));
    verdict("make it ambient", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_CHROOT, 0, 0));
    return 0;
}
