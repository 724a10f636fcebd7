// claim: no host process's pages can be queried or moved
// row: processes
// matrix: B
// control: safe
int main(void)
{
    verdict("query the pages of a host process", syscall(SYS_move_pages, victim(), 0ul, NULL, NULL, NULL, 0));
    return 0;
}
