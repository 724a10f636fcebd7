// claim: the kernel's keyrings, which no namespace divides, are out of reach
// row: kernel-objects
// matrix: B
// control: safe
int main(void)
{
    verdict("add a key", syscall(SYS_add_key, "user", "agentkernel-probe", "x", 1ul, -2 /* process keyring */));
    verdict("find the session keyring", syscall(SYS_keyctl, 0 /* GET_KEYRING_ID */, -3, 0));
    return 0;
}
