// claim: the files interface writes, lists and removes nothing of the host through a linked directory
// row: files
// matrix: C
// control: safe
// then: list directory
// then: write directory/planted
// then: remove directory/kept
// then: mkdir directory/made
// then: chmod directory/kept2
int main(void)
{
    char path[4096];
    in_work(path, sizeof path, "directory");
    return symlink(planted("AK_CANARY"), path) < 0;
}
