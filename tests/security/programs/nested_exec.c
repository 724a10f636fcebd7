// claim: executing itself for ever with huge arguments ends at the deadline
// row: deadline
// matrix: A
// control: none(a bomb)
// bomb: yes
int main(void)
{
    char *argv[64] = {"/proc/self/exe", "nested_exec"};
    char *large = malloc(120000);
    memset(large, 'a', 119999);
    large[119999] = 0;
    for (int i = 2; i < 12; i++)
        argv[i] = large;
    execv("/proc/self/exe", argv);
    outlast();
}
