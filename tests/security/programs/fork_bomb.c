// claim: a fork bomb hits the process limit and slows nobody else
// row: limits
// matrix: A
// control: none(a bomb)
// bomb: yes
int main(void)
{
    for (;;)
        if (fork() < 0)
            sleep_ms(1);
}
