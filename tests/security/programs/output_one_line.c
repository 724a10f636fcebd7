// claim: a line of a hundred megabytes is cut where the caller said
// row: output
// matrix: E
// control: safe
int main(void)
{
    static char block[1 << 20];
    memset(block, 'z', sizeof block);
    for (int i = 0; i < 100; i++)
        if (write(1, block, sizeof block) < 0)
            return 1;
    return 0;
}
