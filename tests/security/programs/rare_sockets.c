// claim: rare address families, whose modules the kernel would load for anybody, are out of reach
// row: syscalls
// matrix: B
// control: none(a successful call loads modules into the host's kernel)
int main(void)
{
    const int families[] = {AF_X25, AF_AX25, AF_NETROM, AF_ROSE, AF_CAN, AF_TIPC, AF_BLUETOOTH, AF_RDS, AF_LLC, AF_PPPOX, AF_KCM, AF_XDP, AF_QIPCRTR, AF_SMC, 45 /* MCTP */};
    for (unsigned i = 0; i < sizeof families / sizeof families[0]; i++) {
        char what[32];
        snprintf(what, sizeof what, "family %d", families[i]);
        verdict(what, socket(families[i], SOCK_DGRAM | SOCK_CLOEXEC, 0));
    }
    return 0;
}
