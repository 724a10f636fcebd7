// claim: the host's clock cannot be set
// row: host-control
// matrix: B
// control: safe
#include <sys/timex.h>
int main(void)
{
    struct timex change = {.modes = ADJ_TICK, .tick = 1}; /* out of range, and refused as such only after permission */
    verdict_past_permission("adjust the clock", adjtimex(&change));
    return 0;
}
