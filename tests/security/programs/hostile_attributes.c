// claim: no file capability and no trusted attribute can be left on a shared file
// row: shared-directory
// matrix: C
// control: safe
// workspace: writable
int main(void)
{
    char path[4096];
    const uint32_t capability[5] = {0x02000001, 0xffffffff, 0, 0xffffffff, 0};
    in_work(path, sizeof path, "capable");
    close(open(path, O_WRONLY | O_CREAT, 0755));
    verdict("file capability", setxattr(path, "security.capability", capability, sizeof capability, 0));
    verdict("trusted attribute", setxattr(path, "trusted.overlay.opaque", "y", 1, 0));
    return 0;
}
