"""What of the host never enters a sandbox by itself: credential files, secret variables; and what a sandbox must not rewrite.

The lists are data, reviewed line by line. A path is relative to the home directory, and stands for itself and all beneath it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from agentkernel.policy.word_list import words

_CREDENTIALS = """
# keys and agents
.ssh .gnupg .pki .password-store .age .config/age .config/sops .local/share/keyrings .local/share/kwalletd Library/Keychains
# secret managers
.vault-token .config/rbw .config/op .op .config/Bitwarden .config/keepassxc .lpass .config/1Password
# clouds
.aws .azure .config/gcloud .config/doctl .config/hcloud .config/scaleway .config/flyctl .fly .oci .aliyun .bluemix .boto .s3cfg
.config/rclone .config/heroku .linode-cli .config/linode-cli .cloudflared .railway .supabase .sentryclirc .terraformrc
.terraform.d/credentials.tfrc.json .pulumi .config/vercel
.local/share/com.vercel.cli .config/netlify .netlify .wrangler .config/.wrangler .config/configstore
# clusters and registries
.kube .config/helm/registry .tsh .step .colima .lima .rd .orbstack .local/share/containers .docker .config/containers/auth.json
.nomad-token .config/argocd .minikube
# forges
.netrc _netrc .git-credentials .config/git/credentials .config/gh .config/hub .config/glab-cli .config/tea .gitconfig.local
.subversion/auth
# package registries
.npmrc .yarnrc .yarnrc.yml .config/yarn .pypirc .config/pip .pip .config/pypoetry .config/uv .local/share/uv/credentials
.cargo/credentials .cargo/credentials.toml .m2/settings.xml .m2/settings-security.xml .sbt/.credentials .ivy2/.credentials
.gradle/gradle.properties .gem/credentials
.local/share/gem/credentials .bundle/config .composer/auth.json .config/composer/auth.json .nuget/NuGet .config/NuGet .hex .condarc
.jupyter
# databases
.pgpass .pg_service.conf .my.cnf .mylogin.cnf .mongorc.js .config/mongodb .dbshell .snowsql .config/snowflake .redisclirc
.databrickscfg
# coding agents
.claude/.credentials.json .claude.json .codex/auth.json .gemini .config/github-copilot .config/opencode
.local/share/opencode/auth.json .config/goose .aider.conf.yml .continue .cursor .config/Cursor .config/anthropic .config/openai
.openai .huggingface .cache/huggingface/token .cache/huggingface/stored_tokens .config/huggingface .kaggle .replicate .config/wandb
.config/agentkernel .local/share/agentkernel .cache/agentkernel .local/state/agentkernel .agentkernel
# browsers and mail
.mozilla .config/google-chrome .config/google-chrome-beta .config/chromium .config/BraveSoftware .config/microsoft-edge
.config/vivaldi .config/opera .thunderbird .config/evolution .local/share/evolution .mutt .muttrc .config/mutt .msmtprc .fetchmailrc
.mbsyncrc .offlineimaprc snap/firefox snap/chromium .var/app Library/Cookies Library/Safari Library/Mail Library/Messages
# chat and editors
.config/Slack .config/discord .config/Signal .config/Element .config/Code .vscode-server .config/JetBrains .local/share/JetBrains
.config/weechat .irssi
# wallets
.bitcoin .ethereum .electrum
# shell histories
.local/share/atuin .bash_history .zsh_history .zsh_sessions .histfile .history .sh_history .ash_history
.local/share/fish/fish_history .python_history
.node_repl_history .irb_history .psql_history .mysql_history .sqlite_history .rediscli_history .lesshst .viminfo .local/state/nvim
.wget-hsts
# session sockets and cookies
.Xauthority .ICEauthority .dbus .cache/keyring .rhosts .smbcredentials .config/pulse/cookie .krb5 .config/rustdesk .config/remmina
.vnc
"""
_CREDENTIALS_WITH_SPACES = (
    "Library/Mobile Documents",
    *(f"Library/Application Support/{name}" for name in ("Google", "Firefox", "Code", "BraveSoftware", "1Password", "Bitwarden")),
)

# Host files and sockets outside any home that give the host away. What holds one of them is as bad as the thing itself.
_SYSTEM = """
/proc /sys /dev /run /var/run /boot /etc/shadow /etc/gshadow /etc/sudoers /etc/sudoers.d /etc/ssh /etc/ssl/private
/etc/krb5.keytab /etc/kubernetes /etc/rancher /etc/wireguard /etc/NetworkManager/system-connections /var/lib/docker
/var/lib/containerd /var/lib/containers /var/lib/kubelet /var/lib/rancher /var/spool/cron /var/lib/sss
"""

# Patterns of variable names, in upper case; `*` only at the ends.
_SENSITIVE_VARIABLES = """
*TOKEN* *SECRET* *PASSWORD* *PASSWD* *PASSPHRASE* *API_KEY* *APIKEY* *ACCESS_KEY* *PRIVATE_KEY* *ENCRYPTION_KEY* *SIGNING_KEY*
*CREDENTIAL* *COOKIE* *SESSION_KEY* *_AUTH *_AUTH_* AUTH_* *_PASS *_PAT *_PWD *_DSN *_KEY *DATABASE_URL* *CONNECTION_STRING*
*WEBHOOK_URL* *REDIS_URL* *MONGO* AWS_* AZURE_* ARM_* GOOGLE_* GCLOUD_* CLOUDSDK_* GCP_* DIGITALOCEAN_* HCLOUD_* OCI_*
ALICLOUD_* VAULT_* CONSUL_* NOMAD_* KUBECONFIG KUBERNETES_* DOCKER_* CONTAINER_HOST TF_VAR_* PULUMI_* GITHUB_* GH_* GITLAB_*
CI_JOB_* BITBUCKET_* ACTIONS_* TWINE_* CARGO_REGISTR* MYSQL_PWD ANTHROPIC_* OPENAI_* GEMINI_* CLAUDE* CODEX_* HF_* WANDB_*
AGENTKERNEL_* PGPASS*
"""  # secrets, and what holds addresses with passwords
_REACH_VARIABLES = """
SSH_* GPG_* DBUS_* DISPLAY WAYLAND_* XAUTHORITY ICEAUTHORITY SESSION_MANAGER GNOME_* GNUPGHOME KRB5* PULSE_* PIPEWIRE_* TMUX* STY
SUDO_* VSCODE_* NOTIFY_SOCKET LISTEN_* INVOCATION_ID JOURNAL_STREAM I3SOCK SWAYSOCK KITTY_* ALACRITTY_* TERMINATOR_* WT_SESSION
"""  # sockets and displays of the user's session
_LOADER_VARIABLES = """
LD_* DYLD_* GLIBC_TUNABLES GCONV_PATH MALLOC_* LOCPATH NLSPATH HOSTALIASES RES_OPTIONS LOCALDOMAIN PYTHONPATH PYTHONHOME
PYTHONSTARTUP PYTHONUSERBASE PYTHONINSPECT PYTHONPLATLIBDIR PYTHONWARNINGS PYTHONBREAKPOINT PYTHONEXECUTABLE __PYVENV_LAUNCHER__
NODE_OPTIONS NODE_PATH NODE_REPL_EXTERNAL_MODULE RUBYOPT RUBYLIB GEM_PATH GEM_HOME BUNDLE_* PERL5* PERLLIB PERL_* JAVA_TOOL_OPTIONS
_JAVA_OPTIONS JDK_JAVA_OPTIONS CLASSPATH MAVEN_OPTS GRADLE_OPTS LUA_PATH* LUA_CPATH* LUA_INIT* PHPRC PHP_INI_SCAN_DIR R_LIBS*
R_PROFILE* RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER RUSTFLAGS CARGO_BUILD_* GOFLAGS GIT_* BASH_ENV BASH_FUNC_* ENV ZDOTDIR
PROMPT_COMMAND PS4 IFS SHELLOPTS BASHOPTS EDITOR VISUAL PAGER LESSOPEN LESSCLOSE MANPAGER BROWSER CC_WRAPPER QT_PLUGIN_PATH
GTK_MODULES GTK_PATH GIO_* GST_PLUGIN_* VIRTUAL_ENV CONDA_*
"""  # make the next program load code or take options from elsewhere
_OWN_VARIABLES = """
HOME PATH USER LOGNAME USERNAME MAIL SHELL SHLVL PWD OLDPWD _ TMPDIR TMP TEMP TEMPDIR HOSTNAME HOST TERM TERMINFO* COLUMNS LINES
WINDOWID XDG_* MANPATH INFOPATH CDPATH
"""  # describe the host's session; the sandbox has its own

# A value can be a secret whatever its variable is called: credentials in a URL, a private key, well-known token formats.
_TELLTALE_VALUE = (
    r"://[^/\s:@]*:[^/\s@]+@"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\b(?:gh[pousr]_|github_pat_|glpat-|xox[abpr]-|sk-[A-Za-z0-9]|sk_live_|AKIA[0-9A-Z]{12}|pypi-AgE)"
    r"|\b(?:npm|hf)_[A-Za-z0-9]{20}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ"
)

# On the deny list because of what they are in a home directory; projects hold files of these names for their own tools, and such a project
# is to be shown. Everything else of the list marks a directory that nobody meant to show.
_ORDINARY_IN_PROJECTS = """
.agentkernel .aider.conf.yml .bundle/config .condarc .config/pip .config/yarn .continue .cursor .docker .fly .gemini .hex .history .jupyter
.minikube .netlify .npmrc .pip .pulumi .replicate .wrangler .yarnrc .yarnrc.yml
"""

# Documents (CLAUDE.md, AGENTS.md) and CI definitions stay writable: they are project files that people read in a diff.
_PROTECTED = """
# settings of this and other sandboxes
agentkernel.toml .agentkernel .devcontainer .devcontainer.json
# what git runs on the host, and what decides what it runs
.git/hooks .git/config .git/config.worktree .git/commondir .git/info/attributes .git/modules .gitmodules .gitconfig .husky .githooks
.pre-commit-config.yaml lefthook.yml .lefthook
# what a shell or an editor runs on entering the directory
.envrc .mise.toml mise.toml .mise .vscode .idea .vim .nvim.lua .exrc .vimrc .dir-locals.el .zed .fleet
# what coding agents run or obey without asking
.claude .mcp.json .cursor .cursorrules .codex .gemini .opencode opencode.json .windsurf .aider.conf.yml .continue .kiro .roo
"""


def _upwards(path: str) -> Iterator[str]:
    """The path and every directory above it; the root is ""."""
    yield path
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _first_held(paths: Iterable[str]) -> dict[str, str]:
    """Each of `paths` and each directory above one, with the first of them that it is or holds."""
    found: dict[str, str] = {}
    for path in paths:
        for holder in _upwards(path):
            found.setdefault(holder, path)
    return found


def _by_last_component(paths: Iterable[str]) -> dict[str, list[tuple[str, ...]]]:
    """The components of each path, by the last of them."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for path in paths:
        parts = tuple(path.split("/"))
        found.setdefault(parts[-1], []).append(parts)
    return found


_DENIED = words(_CREDENTIALS) + _CREDENTIALS_WITH_SPACES
_ORDINARY = frozenset(words(_ORDINARY_IN_PROJECTS))
_KEY_FILES = frozenset({"id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "id_ecdsa_sk", "id_ed25519_sk"})
_SYSTEM_PATHS = frozenset(words(_SYSTEM))
_PROTECTED_PATHS = words(_PROTECTED)

# By these a question is a few look-ups: every start asks dozens.
_DENIED_BY_LAST = _by_last_component(_DENIED)
_DENIED_IN = _first_held(_DENIED)
_SYSTEM_IN = _first_held(words(_SYSTEM))

# Sorted by shape once: a lookup is then four C calls instead of 250 pattern matches.
_NEVER_PASSED = words(_SENSITIVE_VARIABLES + _REACH_VARIABLES + _LOADER_VARIABLES + _OWN_VARIABLES)
_EXACT = frozenset(pattern for pattern in _NEVER_PASSED if "*" not in pattern)
_PREFIXES = tuple(pattern[:-1] for pattern in _NEVER_PASSED if pattern.endswith("*") and not pattern.startswith("*"))
_SUFFIXES = tuple(pattern[1:] for pattern in _NEVER_PASSED if pattern.startswith("*") and not pattern.endswith("*"))
_PARTS = tuple(pattern[1:-1] for pattern in _NEVER_PASSED if pattern.startswith("*") and pattern.endswith("*"))


def denied_in_home() -> tuple[str, ...]:
    """Paths relative to HOME that a sandbox never sees, each with all beneath it."""
    return _DENIED


def protected_paths() -> tuple[str, ...]:
    """Paths relative to a writable workspace that stay read-only inside, where they exist."""
    return _PROTECTED_PATHS


def never_passed() -> tuple[str, ...]:
    """The patterns of the environment variables that `filter_environment` drops, in upper case, for documentation."""
    return _NEVER_PASSED


def is_within(path: str, ancestor: str) -> bool:
    """Whether `path` is `ancestor` or lies beneath it; both absolute and normalised."""
    return path == ancestor or path.startswith(ancestor.rstrip("/") + "/")


def ordinary_in_projects() -> frozenset[str]:
    """Those of `denied_in_home` that are no reason to keep a project from being shown."""
    return _ORDINARY


def holds_credentials(names: Iterable[str]) -> tuple[str, ...]:
    """Those of `names` (paths, best relative to HOME) that are on the deny list, lie beneath it, or are private keys."""
    return tuple(name for name in names if _is_denied(name) or name.rsplit("/", 1)[-1] in _KEY_FILES)


def credential_in(path: str, home: str) -> str | None:
    """The denied place that showing the host path `path` would show, or None.

    That is: `path` is or lies in a denied place (of any home), or a denied place of `home` or of the system lies in `path`.
    Whether that place exists is not asked: it may come to exist while the sandbox runs.
    """
    clean = path.rstrip("/")
    place = _system_place(clean) or _place_of(home.rstrip("/"), clean)
    return place or (path if holds_credentials((path,)) else None)


def _system_place(path: str) -> str | None:
    """The place of the system that `path` is, holds, or lies in."""
    return _SYSTEM_IN.get(path) or next((above for above in _upwards(path) if above in _SYSTEM_PATHS), None)


def _place_of(home: str, path: str) -> str | None:
    """The denied place of `home` that `path` is or holds."""
    if is_within(home, path):
        return f"{home}/{_DENIED[0]}"
    if not path.startswith(home + "/"):
        return None
    denied = _DENIED_IN.get(path.removeprefix(home + "/"))
    return denied and f"{home}/{denied}"


def filter_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What of the host's environment a sandbox may get when its profile passes the environment."""
    return {name: value for name, value in environment.items() if not _never_passed(name) and not re.search(_TELLTALE_VALUE, value)}


def _never_passed(name: str) -> bool:
    upper = name.upper()
    if upper in _EXACT or upper.startswith(_PREFIXES) or upper.endswith(_SUFFIXES):
        return True
    return any(part in upper for part in _PARTS)


def _is_denied(path: str) -> bool:
    """Whether the components of a denied path occur, consecutively, in `path`."""
    if "/" not in path:  # most often: the hundreds of names in a directory
        return (path,) in _DENIED_BY_LAST.get(path, ())
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    for end, last in enumerate(parts, 1):
        for denied in _DENIED_BY_LAST.get(last, ()):
            if end >= len(denied) and parts[end - len(denied) : end] == denied:
                return True
    return False
