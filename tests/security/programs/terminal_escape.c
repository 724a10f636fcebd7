// claim: a terminal's escape sequences and hang-ups disturb neither the agent nor other commands
// row: terminal
// matrix: E
// control: none(a terminal would have to be lent to it)
// terminal: yes
int main(void)
{
    fputs("\033]52;c;cm0gLXJmIC8=\007\033]0;owned\007\033[6n\033P$qm\033\\\033[?1049h\033c\x9b" "6n", stdout);
    fflush(stdout);
    ioctl(0, TIOCNOTTY);
    ioctl(0, TIOCSCTTY, 1);
    ioctl(0, TIOCEXCL);
    vhangup();
    return 0;
}
