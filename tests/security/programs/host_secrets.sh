# claim: no file with a person's secrets is to be found
# row: host-files
# matrix: C
# control: safe
cat "$AK_SECRET" 2>/dev/null
[ -n "$AK_INSIDE" ] || exit 0
for each in /root /home/*/.ssh /etc/shadow /etc/gshadow /etc/sudoers /etc/ssh /var/lib /var/log /var/spool/cron /run/secrets /boot /opt /srv /mnt/host; do
    if [ -d "$each" ] && [ -n "$(ls -A "$each" 2>/dev/null)" ]; then echo "REACHED: $each"; fi
    if [ -f "$each" ] && head -c 1 "$each" >/dev/null 2>&1; then echo "REACHED: $each"; fi
done
exit 0
