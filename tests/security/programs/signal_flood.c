// claim: a flood of queued signals to the supervisor and the agent stops neither
// row: agent
// matrix: A
// control: none(a bomb)
// bomb: yes
int main(void)
{
    union sigval value = {0};
    if (!inside())
        return 2;
    for (;;)
        for (int number = 1; number < 65; number++)
            if (number != SIGKILL && number != SIGSTOP) {
                sigqueue(getppid(), number, value);
                sigqueue(1, number, value);
            }
}
