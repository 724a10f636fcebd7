// claim: the files interface follows a link to a host's file nowhere: it resolves inside
// row: files
// matrix: C
// control: safe
// then: read link
// then: read chain
int main(void)
{
    char path[4096], up[8192];
    in_work(path, sizeof path, "link");
    if (symlink(planted("AK_SECRET"), path) < 0)
        return 1;
    in_work(path, sizeof path, "chain");
    snprintf(up, sizeof up, "../../../../../../../../../../..%s", planted("AK_SECRET"));
    return symlink(up, path) < 0;
}
