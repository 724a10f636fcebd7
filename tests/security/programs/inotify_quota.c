// claim: using up its inotify instances and watches takes none from the host's user
// row: limits
// matrix: A
// control: none(it would take the instances of every program of this user)
// during: inotify
int main(void)
{
    struct rlimit limit;
    int count = 0;
    if (!inside())
        return 2;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    while (inotify_init1(IN_CLOEXEC) >= 0)
        count++;
    printf("instances %d\n", count);
    fflush(stdout);
    sleep_ms(3000);
    return 0;
}
