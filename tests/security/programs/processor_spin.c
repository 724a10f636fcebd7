// claim: endless loops on every processor slow nobody else
// row: limits
// matrix: A
// control: none(a bomb)
// bomb: yes
int main(void)
{
    for (int i = 0; i < 64; i++)
        if (fork() == 0)
            break;
    for (volatile unsigned long n = 0;; n++)
        ;
}
