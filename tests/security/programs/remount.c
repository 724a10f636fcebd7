// claim: no read-only mount can be made writable
// row: mounts
// matrix: B
// control: confined
int main(void)
{
    uint64_t attributes[4] = {0, 1 /* clear RDONLY */, 0, 0};
    const char *paths[] = {"/", "/usr", "/proc", "/proc/sys", "/etc"};
    for (int i = 0; i < 5; i++) {
        verdict(paths[i], mount("none", paths[i], NULL, MS_REMOUNT | MS_BIND, NULL));
        verdict(paths[i], syscall(SYS_mount_setattr, AT_FDCWD, paths[i], 0, attributes, sizeof attributes));
    }
    return 0;
}
