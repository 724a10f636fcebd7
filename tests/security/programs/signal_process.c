// claim: no process of the host can be signalled
// row: processes
// matrix: B
// control: safe
int main(void)
{
    verdict("signal a process of the host", kill(victim(), 0));
    return 0;
}
