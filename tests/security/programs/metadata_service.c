// claim: the cloud's metadata service and every other address outside are unreachable, and the kernel says so at once
// row: network
// matrix: B
// control: none(it would send packets to somebody else's network)
int main(void)
{
    const char *addresses[] = {"169.254.169.254", "100.100.100.200", "192.0.2.1", "10.0.0.1", "172.17.0.1", "192.168.0.1", "8.8.8.8", "224.0.0.1", "255.255.255.255"};
    for (int i = 0; i < 9; i++) {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(80)};
        inet_pton(AF_INET, addresses[i], &address.sin_addr);
        int tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), one = 1;
        setsockopt(udp, SOL_SOCKET, SO_BROADCAST, &one, sizeof one);
        if (connect(tcp, (void *)&address, sizeof address) == 0 || errno == EINPROGRESS)
            reached("tcp %s", addresses[i]);
        if (sendto(udp, "?", 1, 0, (void *)&address, sizeof address) == 1)
            reached("udp %s", addresses[i]);
        close(tcp), close(udp);
    }
    return 0;
}
