// claim: hardware ports are out of reach
// row: host-control
// matrix: B
// control: safe
#include <sys/io.h>
int main(void)
{
    verdict("port 0x80", ioperm(0x80, 1, 1));
    verdict("every port", iopl(3));
    return 0;
}
