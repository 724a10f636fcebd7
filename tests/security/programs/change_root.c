// claim: the root cannot be changed, so the classic walk out of a changed root is impossible
// row: mounts
// matrix: B
// control: safe
int main(void)
{
    char path[4096];
    in_work(path, sizeof path, "newroot");
    mkdir(path, 0755);
    int outside = open("/", O_RDONLY | O_DIRECTORY);
    verdict("change the root", chroot(path));
    if (fchdir(outside) == 0)
        for (int i = 0; i < 64; i++)
            if (chdir("..") < 0)
                break;
    if (chroot(".") == 0)
        show_file(planted("AK_SECRET"));
    verdict_past_permission("pivot the root", syscall(SYS_pivot_root, "/agentkernel-absent", "/agentkernel-absent"));
    return 0;
}
