// claim: a thread bomb hits the process limit and slows nobody else
// row: limits
// matrix: A
// control: none(a bomb)
// bomb: yes
static void *wait_long(void *nothing)
{
    outlast();
    return nothing;
}
int main(void)
{
    pthread_attr_t small;
    pthread_t thread;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    for (;;)
        if (pthread_create(&thread, &small, wait_long, NULL) != 0)
            sleep_ms(1);
}
