# claim: no environment of a host process can be read
# row: processes
# matrix: B
# control: safe
[ -n "$AK_INSIDE" ] && all=$(echo /proc/[0-9]*/environ)
for each in /proc/$AK_VICTIM/environ $all; do cat "$each" 2>/dev/null | tr '\0' '\n'; done | grep '^AK_VICTIM_SECRET='
exit 0
