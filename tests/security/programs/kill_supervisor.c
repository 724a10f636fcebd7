// claim: a command that kills its supervisor gains nothing: it ends, and the sandbox goes on
// row: agent
// matrix: A
// control: none(outside its parent is the test)
int main(void)
{
    if (!inside())
        return 2;
    pid_t parent = getppid();
    for (int i = 0; i < 10; i++) {
        kill(parent, SIGSTOP);
        kill(parent, SIGKILL);
        sleep_ms(10);
    }
    outlast();
}
