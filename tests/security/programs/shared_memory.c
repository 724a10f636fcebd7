// claim: System V shared memory of the host is out of reach
// row: kernel-objects
// matrix: B
// control: safe
int main(void)
{
    int id = shmget(atoi(planted("AK_SHM")), 0, 0);
    char *memory = shmat(id, NULL, SHM_RDONLY);
    if (memory != (void *)-1)
        printf("%.200s\n", memory);
    return 0;
}
