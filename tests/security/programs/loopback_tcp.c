// claim: servers on the host's loopback are out of reach, whatever address names it
// row: network
// matrix: B
// control: safe
int main(void)
{
    const char *addresses[] = {"127.0.0.1", "127.0.0.2", "0.0.0.0", "127.255.255.254", planted("AK_ADDRESS_OUTSIDE")};
    for (int i = 0; i < 5; i++) {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(planted("AK_TCP")))};
        struct timeval patience = {1, 0};
        if (inet_pton(AF_INET, addresses[i], &address.sin_addr) != 1)
            continue;
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        if (connect(fd, (void *)&address, sizeof address) == 0)
            show(fd);
        else
            printf("blocked: %s: %s\n", addresses[i], strerror(errno));
    }
    struct sockaddr_in6 mapped = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)atoi(planted("AK_TCP")))};
    inet_pton(AF_INET6, "::ffff:127.0.0.1", &mapped.sin6_addr);
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (void *)&mapped, sizeof mapped) == 0)
        show(fd);
    return 0;
}
