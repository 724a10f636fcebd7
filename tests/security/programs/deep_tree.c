// claim: a tree of three thousand levels is removed with the sandbox
// row: leftovers
// matrix: A
// control: safe
// then: remove deep
int main(void)
{
    char path[4096];
    in_work(path, sizeof path, "deep");
    mkdir(path, 0700);
    int at = open(path, O_RDONLY | O_DIRECTORY);
    for (int i = 0; i < 3000; i++) {
        mkdirat(at, "d", 0700);
        int next = openat(at, "d", O_RDONLY | O_DIRECTORY);
        close(at);
        at = next;
    }
    return 0;
}
