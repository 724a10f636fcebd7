# claim: no command line of a host process can be read
# row: processes
# matrix: B
# control: safe
[ -n "$AK_INSIDE" ] && all=$(echo /proc/[0-9]*/cmdline)
for each in /proc/$AK_VICTIM/cmdline $all; do cat "$each" 2>/dev/null | tr '\0' '\n'; done
exit 0
