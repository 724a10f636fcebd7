// claim: memory in pipes and sockets ends at the limit
// row: limits
// matrix: A
// control: none(a bomb)
// bomb: yes
int main(void)
{
    static char block[1 << 20];
    for (;;) {
        int ends[2];
        if (fork() == 0)
            for (;;) {
                if (pipe2(ends, O_NONBLOCK) < 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) < 0)
                    outlast();
                fcntl(ends[1], F_SETPIPE_SZ, 1 << 20);
                while (write(ends[1], block, sizeof block) > 0)
                    ;
                if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0)
                    while (write(ends[1], block, sizeof block) > 0)
                        ;
            }
        sleep_ms(10);
    }
}
