// claim: no host process can be rescheduled
// row: processes
// matrix: B
// control: safe
int main(void)
{
    cpu_set_t cpus;
    if (sched_getaffinity(victim(), sizeof cpus, &cpus) < 0)
        return verdict("look at a host process", -1);
    verdict("pin a host process", sched_setaffinity(victim(), sizeof cpus, &cpus));
    return 0;
}
