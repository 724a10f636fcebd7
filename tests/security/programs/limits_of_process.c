// claim: no host process's limits can be read or changed
// row: processes
// matrix: B
// control: safe
int main(void)
{
    struct rlimit old;
    verdict("read the limits of a host process", prlimit(victim(), RLIMIT_NOFILE, NULL, &old));
    return 0;
}
