// claim: a set-user-id program gives no other user
// row: privileges
// matrix: B
// control: plain
int main(void)
{
    char *argv[] = {"hostile", "show_identity", NULL};
    execv(planted("AK_SETUID"), argv);
    printf("blocked: %s: %s\n", planted("AK_SETUID"), strerror(errno));
    return 0;
}
