// claim: no unix socket of the host can be connected to: not the planted one, nor those of Docker, D-Bus, X11 or the ssh and gpg agents
// row: network
// matrix: B
// control: safe
int main(void)
{
    const char *paths[] = {planted("AK_SOCKET"), "/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock", "/run/dbus/system_bus_socket", "/run/systemd/private", "/tmp/.X11-unix/X0", "/run/user/1000/bus", "/run/user/0/bus", planted("SSH_AUTH_SOCK"), "/root/.gnupg/S.gpg-agent"};
    for (unsigned i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        if (strlen(paths[i]) >= sizeof address.sun_path || !*paths[i] || (i > 0 && !inside()))
            continue;
        strcpy(address.sun_path, paths[i]);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (verdict(paths[i], connect(fd, (void *)&address, sizeof address)) && i == 0)
            show(fd);
        close(fd);
    }
    return 0;
}
