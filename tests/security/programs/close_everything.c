// claim: a command that closes all of its descriptors is still watched and ended
// row: deadline
// matrix: E
// control: safe
int main(void)
{
    signal(SIGTERM, SIG_IGN);
    for (int fd = 0; fd < 1024; fd++)
        close(fd);
    outlast();
}
