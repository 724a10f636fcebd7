// claim: no process outside the sandbox can be traced
// row: processes
// matrix: B
// control: safe
int main(void)
{
    verdict("trace a process of the host", ptrace(PTRACE_SEIZE, victim(), 0, 0));
    return 0;
}
