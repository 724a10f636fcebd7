"""The reference page of settings, made from the table."""

from __future__ import annotations

import sys

from agentkernel.config.places import OPERATOR_FILE, PROJECT_FILE
from agentkernel.config.setting import Setting
from agentkernel.config.table import SETTINGS
from agentkernel.config.unsupported import UNSUPPORTED

_HEAD = f"""\
<!-- Made from src/agentkernel/config/table.py by `python -m agentkernel.config.reference`; a test compares them. -->
# Configuration

A setting can be given in several places. Later ones win:

1. the default; where the table says *profile*, the security profile decides
2. the operator's file, `{OPERATOR_FILE}` (must belong to root and be writable by nobody else)
3. your file, `$XDG_CONFIG_HOME/agentkernel/config.toml`, by default `~/.config/agentkernel/config.toml` (must be writable by you alone)
4. the project's file, `{PROJECT_FILE}` in the current directory, or the file that `--config` names
5. environment variables
6. command-line options

`agentkernel config show` prints what is in force and where it comes from, `agentkernel config explain KEY` what every place says,
`agentkernel config check FILE` whether a file is right. Unknown keys are errors. Relative paths count from the directory of the file that
holds them.

## Project files are not trusted

A project's file comes with code that somebody else wrote. It may tighten what you would have without it: a stricter profile, less memory,
no network. A value that would loosen it (the column *project* says which can) is refused until you run `agentkernel trust {PROJECT_FILE}`,
which shows what would change. The trust is bound to the file's content: any change of the file ends it.

What is marked *not there* concerns the daemon and so all projects; a project's file that holds it is refused, trusted or not.

A file named with `--config` is treated the same, wherever it lies, for such command lines are copied from the same README as the file. The
one exception: files in `$XDG_CONFIG_HOME/agentkernel/` are yours.

A project's file that is a symbolic link, is not a regular file, or is larger than 1 MiB is an error, never skipped.

## Example

```toml
[sandbox]
name = "my-project"

[security]
profile = "moderate"

[security.domains]
block = ["*.tracker.example"]

[resources]
memory = "512MiB"
cpus = 1
```

Who a sandbox may talk to, and how the rules are written: [network.md](network.md).

## Settings

"""


def reference_markdown() -> str:
    """The text of docs/configuration.md."""
    rows = "\n".join(_row(setting) for setting in SETTINGS)
    table = f"| key | value | default | option | variable | project | meaning |\n|---|---|---|---|---|---|---|\n{rows}\n"
    unsupported = ", ".join(f"`{key}`" for key in UNSUPPORTED)
    return (
        f"{_HEAD}{table}\nProfiles, tightest first: `restrictive`, `moderate`, `permissive`.\n\n"
        f"## Not part of this version\n\nThese keys and sections are refused, not ignored: {unsupported}.\n"
    )


def _row(setting: Setting) -> str:
    key = "<br>".join([f"`{setting.key}`", *(f"`{alias}`" for alias in setting.aliases)])
    options = ", ".join(f"`{flag}`" for flag in (*setting.flags, *setting.off_flags))
    variable = f"`{setting.environment}`" if setting.environment else ""
    cells = (key, setting.type.name, _default(setting), options, variable, setting.project.says, setting.help)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(setting: Setting) -> str:
    if setting.default is None and setting.key.startswith("network."):
        return "*backend*"
    if setting.default is None:
        return "*profile*" if setting.key.startswith(("security.", "resources.")) else "none"
    if isinstance(setting.default, bool):
        return f"`{str(setting.default).lower()}`"
    return f"`{setting.type.write(setting.default)}`" if setting.default else "none"


if __name__ == "__main__":
    sys.stdout.write(reference_markdown())
