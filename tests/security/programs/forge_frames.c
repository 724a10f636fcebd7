// claim: output that looks like the channel's own frames is output
// row: agent
// matrix: E
// control: none(outside there is no channel)
int main(void)
{
    unsigned char hello[48] = "AKAGENT\n", exited[76] = {56, 0, 0, 0, 133};
    char magic[32] = "AKCHAN1\n";
    for (int i = 0; i < 1000; i++)
        for (int fd = 1; fd < 3; fd++)
            if (write(fd, hello, sizeof hello) < 0 || write(fd, exited, sizeof exited) < 0 || write(fd, magic, sizeof magic) < 0)
                return 1;
    for (int fd = 3; fd < 1024; fd++)
        if (write(fd, hello, sizeof hello) > 0)
            reached("wrote to descriptor %d", fd);
    return 0;
}
