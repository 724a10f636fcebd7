"""What users of other versions know and this one does not do: refused by name, never ignored."""

from __future__ import annotations

# Keys of the agentkernel.toml that its users know and that this version does not honour. They are refused: a rule that is read and not
# applied is worse than none.
UNSUPPORTED = (
    "sandbox.init_script",
    "agent.compatibility_mode",
    "agent.git_name",
    "agent.git_email",
    "network.vsock_cid",
    "security.seccomp",
    "security.commands",
    "security.transport",
    "build",
    "git",
    "orchestrator",
    "remote",
    "enterprise",
    "api",
    "scheduling",
    "workspace",
    "schedule",
    "proxy",
    "llm_keys",
    "llm_governance",
    "template",
    "ssh",
)

# Variables that other parts read; every other AGENTKERNEL_ variable that nearly is a setting's name is taken for a slip.
OTHER_VARIABLES = (
    "AGENTKERNEL_API_KEY",
    "AGENTKERNEL_AUDIT",
    "AGENTKERNEL_BASE_URL",
    "AGENTKERNEL_CONTAINER",
    "AGENTKERNEL_DEBUG",
    "AGENTKERNEL_FAILPOINTS",
    "AGENTKERNEL_GUEST",
    "AGENTKERNEL_HOME",
    "AGENTKERNEL_PODMAN",
    "AGENTKERNEL_PORT",
    "AGENTKERNEL_RUNSC",
    "AGENTKERNEL_SOCKET",
    "AGENTKERNEL_TOKEN",
)
