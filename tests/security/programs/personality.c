// claim: address randomisation cannot be switched off
// row: syscalls
// matrix: B
// control: safe
#include <sys/personality.h>
int main(void)
{
    int old = personality(0xffffffff);
    verdict("switch randomisation off", personality((unsigned long)old | ADDR_NO_RANDOMIZE));
    return 0;
}
