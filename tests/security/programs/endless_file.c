// claim: a link to an endless device ends at the reader's limit
// row: files
// matrix: C
// control: safe
// then: read endless
int main(void)
{
    char path[4096];
    in_work(path, sizeof path, "endless");
    return symlink("/dev/zero", path) < 0;
}
