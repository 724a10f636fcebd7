# claim: nothing of the host's environment comes in
# row: environment
# matrix: E
# control: safe
env
[ -n "$AK_INSIDE" ] && others="/proc/$PPID/environ /proc/1/environ"
cat /proc/self/environ $others 2>/dev/null | tr '\0' '\n'
exit 0
