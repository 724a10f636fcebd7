// claim: no open file of a host process can be reopened through /proc
// row: processes
// matrix: B
// control: safe
int main(void)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%s", victim(), planted("AK_DESCRIPTOR"));
    show_file(path);
    return 0;
}
