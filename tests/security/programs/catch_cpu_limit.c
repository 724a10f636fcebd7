// claim: catching SIGXCPU buys no time
// row: deadline
// matrix: A
// control: safe
static void again(int number)
{
    signal(number, again);
}
int main(void)
{
    struct rlimit one = {1, RLIM_INFINITY};
    signal(SIGXCPU, again);
    signal(SIGTERM, again);
    setrlimit(RLIMIT_CPU, &one);
    for (volatile unsigned long n = 0;; n++)
        ;
}
