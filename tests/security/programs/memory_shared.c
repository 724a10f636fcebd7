// claim: files in /dev/shm and System V segments end at the limit
// row: limits
// matrix: A
// control: none(a bomb)
// bomb: yes
int main(void)
{
    static char block[1 << 20];
    int fd = open("/dev/shm/fill", O_WRONLY | O_CREAT, 0600);
    memset(block, 1, sizeof block);
    while (write(fd, block, sizeof block) > 0)
        ;
    for (int i = 0; i < 2000; i++) {
        int id = shmget(IPC_PRIVATE, 8 << 20, IPC_CREAT | 0600);
        char *memory = shmat(id, NULL, 0);
        if (memory != (void *)-1)
            memset(memory, 1, 8 << 20);
    }
    outlast();
}
