// claim: a process cannot open more files than its limit
// row: limits
// matrix: A
// control: safe
int main(void)
{
    struct rlimit limit;
    int count = 0;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    while (count < 100000 && dup(1) >= 0)
        count++;
    if (count > 4096)
        reached("%d files", count);
    return 0;
}
