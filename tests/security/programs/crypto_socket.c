// claim: the kernel's crypto interface, a frequent source of holes, is out of reach
// row: syscalls
// matrix: B
// control: safe
int main(void)
{
    verdict("AF_ALG socket", socket(AF_ALG, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    return 0;
}
