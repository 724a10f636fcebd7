// claim: using up its pseudo-terminals takes none from the host
// row: limits
// matrix: A
// control: none(it would take the host's terminals)
// during: terminal
int main(void)
{
    int count = 0;
    if (!inside())
        return 2;
    while (open("/dev/ptmx", O_RDWR | O_NOCTTY) >= 0)
        count++;
    printf("terminals %d\n", count);
    fflush(stdout);
    sleep_ms(3000);
    return 0;
}
