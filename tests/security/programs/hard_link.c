// claim: no hard link to a file of the host can be made
// row: files
// matrix: C
// control: safe
// then: read hard
int main(void)
{
    char path[4096];
    in_work(path, sizeof path, "hard");
    verdict("link the secret", link(planted("AK_SECRET"), path));
    verdict("link by a descriptor", linkat(AT_FDCWD, planted("AK_SECRET"), AT_FDCWD, path, AT_SYMLINK_FOLLOW));
    return 0;
}
