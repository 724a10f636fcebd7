"""Mounts that the host makes for a sandbox of somebody else's runtime: with owners exchanged, private views, and protected paths.

A program, `python -I -S _hostmounts.py`, with the request as JSON on its standard input, so that it can also run where a rootless engine
has its mounts. It answers with one line of JSON: {} or {"errno": number, "what": text}. It imports little, because somebody waits for it.

The request is {"mounts": [step, ...]}, done in order, or {"unmount": [path, ...]}, which leaves out what is no mount point. A step is one
of

    {"do": "bind", "source", "target", "writable", "executable", "owners"}    shows a directory or a file; `owners`: lines of an id map
    {"do": "overlay", "lower", "upper", "work", "target", "owner", "own_xattrs"}    a private view, whose new files are in `upper`: of the
                                                                              owner (uid, gid); `own_xattrs`: for a user namespace
    {"do": "pin" or "seal", "target", "path"}                                 beneath a mount: not to be renamed; nor written to
    {"do": "hide", "target", "path"}                                          beneath a mount: nothing is to be seen of it
    {"do": "memory", "target", "size"}                                        an empty file system in memory

A runtime that is given `target` has a copy of the mount as soon as its container runs; then it is unmounted here, so that nothing is left
which a crash could leave behind but for that moment.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import stat
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

_AT_FDCWD: Final = -100
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_OPEN_TREE_CLONE: Final = 1
_MOVE_FROM_EMPTY, _MOVE_TO_EMPTY = 0x4, 0x40
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _IDMAP = 0x1, 0x2, 0x4, 0x8, 0x100000
_MS_NOSUID, _MS_NODEV, _MS_PRIVATE = 0x2, 0x4, 1 << 18
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x04, 0x08
_CLONE_NEWUSER: Final = 0x10000000
_OPEN_TREE, _MOVE_MOUNT, _OPENAT2, _MOUNT_SETATTR = 428, 429, 437, 442  # the same numbers on every architecture

_libc: Final = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def _open_beneath(directory: int, path: str, resolve: int) -> int:
    """An O_PATH descriptor; no link is followed, the last one neither."""
    how = struct.pack("QQQ", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, 0, resolve)
    return _checked(_libc.syscall(_OPENAT2, directory, os.fsencode(path), how, ctypes.c_size_t(len(how))), path)


def _clone(place: int, *, recursive: bool, what: str) -> int:
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH | _AT_SYMLINK_NOFOLLOW | (_AT_RECURSIVE if recursive else 0)
    return _checked(_libc.syscall(_OPEN_TREE, place, b"", flags), what)


def _set_attributes(tree: int, attributes: int, *, recursive: bool, what: str, namespace: int = -1) -> None:
    given = struct.pack("QQQQ", attributes | (_IDMAP if namespace >= 0 else 0), 0, _MS_PRIVATE, max(namespace, 0))
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    _checked(_libc.syscall(_MOUNT_SETATTR, tree, b"", flags, given, ctypes.c_size_t(len(given))), what)


def _attach(tree: int, place: int, what: str) -> None:
    _checked(_libc.syscall(_MOVE_MOUNT, tree, b"", place, b"", _MOVE_FROM_EMPTY | _MOVE_TO_EMPTY), what)


def _namespace(id_map: str) -> int:
    """A descriptor of a user namespace with that map, of a child that does nothing else."""
    ready, told = os.pipe()
    over, ends = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(ends)
            if _libc.unshare(_CLONE_NEWUSER) == 0:
                os.write(told, b"1")
                os.read(over, 1)  # until it has been opened
        finally:
            os._exit(0)
    os.close(told)
    os.close(over)
    try:
        if os.read(ready, 1) != b"1":
            raise OSError(errno.EPERM, "no user namespace can be made")
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{child}/{name}", "w") as file:
                file.write(id_map)
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready)
        os.close(ends)
        os.waitpid(child, 0)


def _make_target(path: str, *, directory: bool) -> None:
    if directory:
        os.makedirs(path, mode=0o755, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def _bind(step: dict[str, Any]) -> None:
    source, target = step["source"], step["target"]
    place = _open_beneath(_AT_FDCWD, source, _RESOLVE_NO_SYMLINKS)
    _make_target(target, directory=stat.S_ISDIR(os.fstat(place).st_mode))
    attributes = _NOSUID | _NODEV
    attributes |= 0 if step["writable"] else _RDONLY
    attributes |= 0 if step["executable"] else _NOEXEC
    namespace = _namespace(step["owners"]) if step.get("owners") else -1
    tree = _clone(place, recursive=True, what=source)
    try:
        _set_attributes(tree, attributes, recursive=True, what=source, namespace=namespace)
    except OSError as error:
        if error.errno != errno.EINVAL or namespace < 0:
            raise
        # A file system that is mounted beneath cannot be id-mapped: what is in it is not shown.
        tree = _clone(place, recursive=False, what=source)
        _set_attributes(tree, attributes, recursive=False, what=source, namespace=namespace)
    _attach(tree, _open_beneath(_AT_FDCWD, target, 0), target)


def _overlay(step: dict[str, Any]) -> None:
    _make_target(step["target"], directory=True)
    for path in (step["upper"], step["work"]):
        _make_target(path, directory=True)
    if step.get("owner"):
        os.chown(step["upper"], *step["owner"])
    options = f"lowerdir={step['lower']},upperdir={step['upper']},workdir={step['work']}" + (",userxattr" if step.get("own_xattrs") else "")
    _mount("overlay", step["target"], options)


def _memory(step: dict[str, Any]) -> None:
    _make_target(step["target"], directory=True)
    size = int(step["size"])
    _mount("tmpfs", step["target"], f"size={size},nr_inodes={max(1024, size // 4096)},mode=755")


def _mount(kind: str, target: str, options: str) -> None:
    name = kind.encode()
    _checked(_libc.mount(name, os.fsencode(target), name, ctypes.c_ulong(_MS_NOSUID | _MS_NODEV), os.fsencode(options)), target)
    _checked(_libc.mount(b"none", os.fsencode(target), None, ctypes.c_ulong(_MS_PRIVATE), None), target)


def _fix(step: dict[str, Any]) -> None:
    """Puts a path onto itself: a mount point is neither renamed nor removed; sealed, nothing in it is written either."""
    root = _open_beneath(_AT_FDCWD, step["target"], 0)
    try:
        place = _open_beneath(root, step["path"], _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH)
    except FileNotFoundError:
        return
    tree = _clone(place, recursive=True, what=step["path"])
    attributes = _NOSUID | _NODEV | (_RDONLY if step["do"] == "seal" else 0)
    _set_attributes(tree, attributes, recursive=True, what=step["path"])
    _attach(tree, place, step["path"])


def _hide(step: dict[str, Any]) -> None:
    """Puts an empty directory or file over a path, which then is there and has nothing in it."""
    root = _open_beneath(_AT_FDCWD, step["target"], 0)
    try:
        place = _open_beneath(root, step["path"], _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH)
    except FileNotFoundError:
        return
    nothing = f"{step['target']}-nothing"
    if not os.path.ismount(nothing):
        _make_target(nothing, directory=True)
        _mount("tmpfs", nothing, "size=4096,nr_inodes=3,mode=555")
        for name, make in (("directory", os.mkdir), ("file", os.mknod)):
            make(f"{nothing}/{name}")
            os.chmod(f"{nothing}/{name}", 0o555)  # noqa: S103 - they are empty, and mounted read-only
    kind = "directory" if stat.S_ISDIR(os.fstat(place).st_mode) else "file"
    tree = _clone(_open_beneath(_AT_FDCWD, f"{nothing}/{kind}", 0), recursive=False, what=nothing)
    _set_attributes(tree, _RDONLY | _NOSUID | _NODEV | _NOEXEC, recursive=False, what=nothing)
    _attach(tree, place, step["path"])


_STEPS = {"bind": _bind, "overlay": _overlay, "memory": _memory, "pin": _fix, "seal": _fix, "hide": _hide}


def _unmount(path: str) -> None:
    if _libc.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW) < 0 and ctypes.get_errno() not in (errno.EINVAL, errno.ENOENT):
        _checked(-1, path)


def serve(request: dict[str, Any]) -> dict[str, Any]:
    """Does what is asked for; what was mounted before a step that fails is unmounted again."""
    done: list[str] = []
    try:
        for step in request.get("mounts", ()):
            _STEPS[step["do"]](step)
            if step["target"] not in done:
                done.append(step["target"])
        for path in request.get("unmount", ()):
            _unmount(path)
    except OSError as error:
        for path in reversed(done):
            _unmount(path)
        return {"errno": error.errno or 0, "what": f"{error.strerror}: {error.filename or ''}".rstrip(": ")}
    return {}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(serve(json.load(sys.stdin))) + "\n")
