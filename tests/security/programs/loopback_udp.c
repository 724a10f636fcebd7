// claim: datagrams reach nobody on the host
// row: network
// matrix: B
// control: safe
int main(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(planted("AK_UDP")))};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct timeval patience = {1, 0};
    char buffer[512];
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    sendto(fd, "?", 1, 0, (void *)&address, sizeof address);
    ssize_t size = recv(fd, buffer, sizeof buffer, 0);
    if (size > 0)
        printf("%.*s\n", (int)size, buffer);
    return 0;
}
