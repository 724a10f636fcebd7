// claim: kernel timers end at a limit and cost the sandbox's own memory
// row: limits
// matrix: A
// control: none(a bomb)
// bomb: yes
int main(void)
{
    struct sigevent quiet = {.sigev_notify = SIGEV_NONE};
    timer_t timer;
    for (;;)
        if (timer_create(CLOCK_MONOTONIC, &quiet, &timer) < 0)
            sleep_ms(1);
}
