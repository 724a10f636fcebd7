// claim: message queues of the host, System V and POSIX, are out of reach
// row: kernel-objects
// matrix: B
// control: safe
#include <mqueue.h>
int main(void)
{
    struct {
        long type;
        char text[256];
    } message = {0};
    int id = msgget(atoi(planted("AK_MSG")), 0);
    if (msgrcv(id, &message, sizeof message.text, 0, IPC_NOWAIT) >= 0)
        printf("%.200s\n", message.text);
    char buffer[8192];
    mqd_t queue = mq_open(planted("AK_MQ"), O_RDONLY | O_NONBLOCK);
    ssize_t size = mq_receive(queue, buffer, sizeof buffer, NULL);
    if (size > 0)
        printf("%.*s\n", (int)size, buffer);
    return 0;
}
