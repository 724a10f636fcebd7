// claim: abstract unix sockets of the host are out of reach
// row: network
// matrix: B
// control: safe
int main(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *name = planted("AK_ABSTRACT");
    memcpy(address.sun_path + 1, name, strlen(name));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (void *)&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name))) == 0)
        show(fd);
    return 0;
}
