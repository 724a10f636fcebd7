// claim: nothing can be mounted by mount(2)
// row: mounts
// matrix: B
// control: confined
int main(void)
{
    char path[4096];
    in_work(path, sizeof path, "mounted");
    mkdir(path, 0755);
    verdict("mount a tmpfs", mount("none", path, "tmpfs", 0, ""));
    verdict("bind the root", mount("/", path, NULL, MS_BIND | MS_REC, NULL));
    verdict("mount a new proc", mount("none", path, "proc", 0, ""));
    return 0;
}
