"""A plain root for backends that show the host's: /usr with its links, the loader's cache, and synthetic users."""

from __future__ import annotations

from pathlib import Path

from agentkernel.model.spec import Bind, RootFile, RootFilesystem, RootKind

MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
SHOWN_ETC = ("/etc/ld.so.cache", "/etc/alternatives")
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n"
GROUP = b"root:x:0:\nuser:x:1000:\n"
ENVIRONMENT = (("HOME", "/home/user"), ("LANG", "C.UTF-8"), ("PATH", "/usr/local/bin:/usr/bin:/bin"), ("TERM", "xterm"))


def host_root() -> RootFilesystem:
    """The allow-list: nothing of the host beside what `SHOWN_ETC` and /usr hold."""
    links = [path for name in MERGED if (path := Path("/", name)).is_symlink()]
    directories = ["/usr", *(f"/{name}" for name in MERGED if Path("/", name).is_dir() and not Path("/", name).is_symlink())]
    shown = [path for path in (*directories, *SHOWN_ETC) if Path(path).exists()]
    return RootFilesystem(
        kind=RootKind.HOST,
        binds=tuple(Bind(source=path, target=path) for path in shown),
        symlinks=tuple((str(path), str(path.readlink())) for path in links),
        files=(RootFile(path="/etc/passwd", content=PASSWD), RootFile(path="/etc/group", content=GROUP)),
        path_directories=("/usr/local/bin", "/usr/bin", "/bin"),
    )
