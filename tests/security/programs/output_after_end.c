// claim: what a left-behind process writes after the command's end costs the host no memory
// row: output
// matrix: A
// control: none(it would fill the memory of whoever collects it)
// bomb: yes
int main(void)
{
    static char block[1 << 16];
    memset(block, 'y', sizeof block);
    if (fork() != 0)
        return 0;
    setsid();
    for (;;)
        if (write(1, block, sizeof block) < 0)
            sleep_ms(1);
}
