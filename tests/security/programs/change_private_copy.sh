# claim: a private view of a directory changes nothing of it, whatever is done to its files
# row: shared-directory
# matrix: C
# control: safe
# workspace: copy-on-write
cd "$AK_WORK" || exit 1
echo changed >> kept; rm -f kept2; chmod 777 .; mkdir made; mv sub renamed; ln -f kept hard; ln -s / link; touch -d 2001-01-01 kept; truncate -s 0 sub/deep 2>/dev/null
exit 0
