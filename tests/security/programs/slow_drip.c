// claim: a trickle of output keeps no command alive past its deadline
// row: deadline
// matrix: A
// control: safe
int main(void)
{
    signal(SIGTERM, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    for (;;) {
        if (write(1, ".", 1) < 0)
            sleep_ms(1);
        sleep_ms(20);
    }
}
