// claim: no namespace of any kind can be made
// row: namespaces
// matrix: B
// control: safe
int main(void)
{
    const int kinds[] = {CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS, CLONE_NEWCGROUP, 0x80 /* time */};
    for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        verdict("unshare a namespace", unshare(kinds[i]));
    return 0;
}
