// claim: nothing can be mounted by the new mount interface (CVE-2021-41133)
// row: mounts
// matrix: B
// control: confined
int main(void)
{
    verdict("open a file system", syscall(SYS_fsopen, "tmpfs", 0));
    verdict("clone a mount", syscall(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */ | 0x8000 /* AT_RECURSIVE */));
    return 0;
}
