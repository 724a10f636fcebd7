// claim: a virtual machine's host cannot be reached by vsock, which no network namespace divides
// row: network
// matrix: B
// control: safe
int main(void)
{
    verdict("vsock socket", socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0));
    return 0;
}
