// claim: no characters can be pushed into a terminal's input (CVE-2017-5226)
// row: terminal
// matrix: B
// control: safe
// terminal: yes
int main(void)
{
    verdict("push a character", ioctl(0, TIOCSTI, "x"));
    char paste = 3;
    verdict("paste the selection", ioctl(0, TIOCLINUX, &paste));
    return 0;
}
