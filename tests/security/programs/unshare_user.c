// claim: no user namespace can be made by unshare
// row: namespaces
// matrix: B
// control: safe
int main(void)
{
    verdict("unshare a user namespace", unshare(CLONE_NEWUSER));
    return 0;
}
