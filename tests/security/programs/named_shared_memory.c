// claim: POSIX shared memory of the host is out of reach
// row: kernel-objects
// matrix: B
// control: safe
int main(void)
{
    char path[256];
    snprintf(path, sizeof path, "/dev/shm/%s", planted("AK_DEVSHM"));
    show_file(path);
    return 0;
}
