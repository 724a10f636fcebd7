// claim: a command has no capability and is not root
// row: privileges
// matrix: B
// control: safe
int main(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{0}};
    syscall(SYS_capget, &header, data);
    if (geteuid() == 0 || geteuid() != getuid())
        reached("effective user %d", geteuid());
    if (data[0].effective | data[1].effective | data[0].permitted | data[1].permitted | data[0].inheritable)
        reached("capabilities %x %x", data[0].effective, data[1].effective);
    return 0;
}
