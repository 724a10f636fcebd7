// claim: no mask over a sensitive file can be taken away (CVE-2025-31133's aim)
// row: mounts
// matrix: B
// control: confined
int main(void)
{
    const char *paths[] = {"/proc/kcore", "/proc/keys", "/proc/sys", "/proc/timer_list", "/tmp", "/usr", "/proc"};
    for (int i = 0; i < 7; i++)
        verdict(paths[i], umount2(paths[i], MNT_DETACH));
    return 0;
}
