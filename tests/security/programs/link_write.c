// claim: writing to a link writes to no file of the host
// row: files
// matrix: C
// control: safe
// then: write link
// then: append link
int main(void)
{
    char path[4096], target[8192];
    in_work(path, sizeof path, "link");
    snprintf(target, sizeof target, "%s/kept", planted("AK_CANARY"));
    return symlink(target, path) < 0;
}
