"""The coding agents that agentkernel knows, and whether a host has them. Nothing of them is run to find out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """One agent. `key` is the variable of its provider's key; empty: it needs none of its own."""

    ident: str
    name: str
    aliases: tuple[str, ...]
    command: str
    key: str
    package: str  # of npm


AGENTS: Final = (
    Agent(
        ident="claude",
        name="Claude Code",
        aliases=("claude-code",),
        command="claude",
        key="ANTHROPIC_API_KEY",
        package="@anthropic-ai/claude-code",
    ),
    Agent(ident="gemini", name="Gemini CLI", aliases=("gemini-cli",), command="gemini", key="GEMINI_API_KEY", package="@google/gemini-cli"),
    Agent(ident="codex", name="Codex", aliases=("openai-codex",), command="codex", key="OPENAI_API_KEY", package="@openai/codex"),
    Agent(ident="opencode", name="OpenCode", aliases=("open-code",), command="opencode", key="", package="opencode-ai"),
)


def agent_record(agent: Agent, environment: Mapping[str, str]) -> dict[str, object]:
    """An agent and how it stands on this host, as JSON."""
    installed = shutil.which(agent.command, path=environment.get("PATH", "")) is not None
    has_key = not agent.key or bool(environment.get(agent.key))
    return {
        "id": agent.ident,
        "name": agent.name,
        "aliases": list(agent.aliases),
        "command": agent.command,
        "installed": installed,
        "api_key": agent.key,
        "api_key_set": has_key,
        "status": "not installed" if not installed else "ready" if has_key else "api key missing",
        "install": f"npm install -g {agent.package}",
    }
