# claim: no system file, program or library of the host can be changed, removed or shadowed
# row: host-files
# matrix: C
# control: none(it is the host that it would destroy)
[ -n "$AK_INSIDE" ] || exit 2
for each in /usr/bin/env /usr/bin/python3 /etc/passwd /etc/ld.so.cache /bin/sh /usr/lib/os-release; do
    (: >> "$each") 2>/dev/null && echo "REACHED: opened $each"
    rm -f "$each" 2>/dev/null && echo "REACHED: removed $each"
    mv "$each" /tmp/ 2>/dev/null && echo "REACHED: moved $each"
done
for each in / /usr /usr/bin /etc /etc/ld.so.preload.d /lib /dev /proc; do
    (: > "$each/agentkernel-probe") 2>/dev/null && echo "REACHED: wrote into $each"
    mkdir "$each/agentkernel-probe.d" 2>/dev/null && echo "REACHED: made a directory in $each"
done
exit 0
