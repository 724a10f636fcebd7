# claim: such files cannot be made where there were none
# row: shared-directory
# matrix: C
# control: safe
# workspace: writable-empty
# judge: protected
cd "$AK_WORK" || exit 1
mkdir -p .git/hooks .vscode .claude 2>/dev/null
for each in .git/hooks/pre-commit .git/config .envrc .vscode/tasks.json agentkernel.toml .claude/settings.json .mcp.json; do
    (echo 'echo owned' > "$each") 2>/dev/null && echo "wrote $each"
done
exit 0
