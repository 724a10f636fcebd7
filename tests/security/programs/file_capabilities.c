// claim: a program with file capabilities gives none
// row: privileges
// matrix: B
// control: plain
int main(void)
{
    char *argv[] = {"hostile", "show_identity", NULL};
    execv(planted("AK_FILECAP"), argv);
    printf("blocked: %s: %s\n", planted("AK_FILECAP"), strerror(errno));
    return 0;
}
