// claim: no packet can be sniffed or forged
// row: network
// matrix: B
// control: safe
int main(void)
{
    verdict("packet socket", socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(3)));
    verdict("raw ICMP socket", socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP));
    verdict("raw IPv6 socket", socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMPV6));
    return 0;
}
