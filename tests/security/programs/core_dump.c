// claim: a crash writes no core file and starts no handler on the host
// row: limits
// matrix: A
// control: safe
int main(void)
{
    struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY}, now;
    setrlimit(RLIMIT_CORE, &all);
    getrlimit(RLIMIT_CORE, &now);
    if (now.rlim_max != 0)
        reached("core files of %llu bytes are allowed", (unsigned long long)now.rlim_max);
    return 0;
}
