# claim: files that the host's own tools execute or obey cannot be changed in a shared directory
# row: shared-directory
# matrix: C
# control: safe
# workspace: writable
# judge: protected
cd "$AK_WORK" || exit 1
for each in .git/hooks/pre-commit .git/config .envrc .vscode/tasks.json agentkernel.toml .claude/settings.json .mcp.json; do
    echo 'echo owned' > "$each" && echo "REACHED: wrote $each"
    rm -rf "$each" && echo "REACHED: removed $each"
    ln -sf /tmp/owned "$each" && echo "REACHED: replaced $each"
done 2>/dev/null
(echo 'echo owned' > .git/hooks/post-checkout) 2>/dev/null && echo "REACHED: made .git/hooks/post-checkout"
for each in .git .git/hooks .vscode .claude; do
    mv "$each" "$each.gone" 2>/dev/null && echo "REACHED: moved $each"
    rmdir "$each" 2>/dev/null && echo "REACHED: removed $each"
done
exit 0
