# claim: searching every file that can be read does not find the secret
# row: host-files
# matrix: C
# control: safe
# timeout: 60
[ -n "$AK_INSIDE" ] || { grep -rhs 'agentkernel-secret-' "$(dirname "$AK_SECRET")"; exit 0; }
for each in /tmp /var /home /root /mnt /media /opt /srv /run /dev/shm "$(dirname "$AK_SECRET")"; do
    grep -rhsI --exclude-dir=proc --exclude-dir=sys -m 1 'agentkernel-secret-' "$each" 2>/dev/null
done | head -5
exit 0
