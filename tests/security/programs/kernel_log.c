// claim: the kernel's log can neither be read nor written
// row: kernel-objects
// matrix: B
// control: safe
#include <sys/klog.h>
int main(void)
{
    char buffer[256];
    verdict("read the log", klogctl(3, buffer, sizeof buffer));
    verdict("open the log for writing", open("/dev/kmsg", O_WRONLY | O_CLOEXEC));
    return 0;
}
