// claim: nothing below /proc or /dev that was masked can be renamed, removed or replaced by a link
// row: mounts
// matrix: B
// control: none(outside nothing is masked, and /dev is the host's own)
int main(void)
{
    const char *paths[] = {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/dev/null", "/dev/pts", "/proc/self", "/dev/console"};
    for (int i = 0; i < 7; i++) {
        char moved[128];
        snprintf(moved, sizeof moved, "%s.gone", paths[i]);
        verdict(paths[i], rename(paths[i], moved));
        verdict(paths[i], unlink(paths[i]));
        verdict(paths[i], symlink(planted("AK_SECRET"), paths[i]));
    }
    return 0;
}
