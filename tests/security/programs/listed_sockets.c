// claim: no socket that /proc/net/unix lists leads out, the agent's own least of all
// row: agent
// matrix: B
// control: safe
int main(void)
{
    FILE *list = fopen("/proc/net/unix", "r");
    char line[1024];
    while (list && fgets(line, sizeof line, list)) {
        char *name = strchr(line, '/');
        if (!name)
            name = strchr(line, '@');
        if (!name)
            continue;
        name[strcspn(name, "\n")] = 0;
        if (!inside() && strcmp(name, planted("AK_SOCKET")) != 0)
            continue;
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        if (strlen(name) >= sizeof address.sun_path)
            continue;
        strcpy(address.sun_path, name);
        if (*name == '@')
            address.sun_path[0] = 0;
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        verdict(name, connect(fd, (void *)&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name))));
        close(fd);
    }
    return 0;
}
