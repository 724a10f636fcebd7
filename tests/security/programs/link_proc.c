// claim: magic links of /proc lead the files interface nowhere outside
// row: files
// matrix: C
// control: safe
// then: read victim
// then: read root
int main(void)
{
    char path[4096], target[8192];
    in_work(path, sizeof path, "victim");
    snprintf(target, sizeof target, "/proc/%d/fd/%s", victim(), planted("AK_DESCRIPTOR"));
    if (symlink(target, path) < 0)
        return 1;
    in_work(path, sizeof path, "root");
    snprintf(target, sizeof target, "/proc/self/root%s", planted("AK_SECRET"));
    return symlink(target, path) < 0;
}
