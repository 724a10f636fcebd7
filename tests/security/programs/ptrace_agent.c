// claim: neither the agent nor a command's supervisor can be traced
// row: agent
// matrix: B
// control: safe
int main(void)
{
    const pid_t targets[] = {getppid(), 1};
    for (int i = 0; i < 1 + inside(); i++)
        verdict(i ? "trace process 1" : "trace the parent", ptrace(PTRACE_SEIZE, targets[i], 0, 0));
    return 0;
}
