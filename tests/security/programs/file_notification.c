// claim: the host's file accesses cannot be watched as a whole
// row: syscalls
// matrix: B
// control: safe
int main(void)
{
    verdict("watch a whole mount", syscall(SYS_fanotify_init, 0x04 /* FAN_CLASS_CONTENT */, O_RDONLY));
    return 0;
}
