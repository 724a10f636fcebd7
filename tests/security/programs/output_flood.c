// claim: output without end costs the host neither memory nor time
// row: output
// matrix: A
// control: none(it would fill the memory of whoever collects it)
// bomb: yes
int main(void)
{
    static char block[1 << 16];
    memset(block, 'x', sizeof block);
    for (;;)
        if (write(1, block, sizeof block) < 0 || write(2, block, sizeof block) < 0)
            sleep_ms(1);
}
