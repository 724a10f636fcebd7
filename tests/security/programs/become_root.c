// claim: no call makes root of the workload
// row: privileges
// matrix: B
// control: safe
#include <grp.h>
int main(void)
{
    gid_t group = 0;
    verdict("setgroups", setgroups(1, &group));
    verdict("setgid", setresgid(0, 0, 0));
    verdict("setuid", setresuid(0, 0, 0));
    if (geteuid() == 0)
        reached("root");
    return 0;
}
