// claim: names with newlines, escape sequences, invalid UTF-8 and dashes arrive as bytes and harm nobody who lists them
// row: files
// matrix: C
// control: none(a careless reader would have to be written first)
// then: list .
int main(void)
{
    const char *names[] = {"a\nb", "\033]52;c;Zm9v\007", "\xff\xfe", "-rf", "--", "$(id)", "`id`", "a\tb", "\xe2\x80\xae" "gpj.exe", "con", ".", " ", "'; rm -rf /; '"};
    char path[4096];
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
        in_work(path, sizeof path, names[i]);
        close(open(path, O_WRONLY | O_CREAT, 0644));
    }
    char longest[256];
    memset(longest, 'l', 255);
    longest[255] = 0;
    in_work(path, sizeof path, longest);
    close(open(path, O_WRONLY | O_CREAT, 0644));
    return 0;
}
