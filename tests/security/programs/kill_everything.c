// claim: killing everything in reach ends neither the agent nor anything outside
// row: agent
// matrix: A
// control: none(it kills every process of the host)
int main(void)
{
    if (!inside())
        return 2;
    for (int i = 0; i < 100; i++) {
        kill(-1, SIGSTOP);
        kill(-1, SIGKILL);
        kill(1, SIGKILL);
        kill(getppid(), SIGKILL);
    }
    return 0;
}
