"""Stands in for Apple's program `container`, version 1.2, on Linux: `python apple_container.py STATE VERB ...`.

It takes the options that the program's command reference has for what agentkernel uses, and refuses everything else as the program does. A
machine is a set of namespaces with a root of its own, whose system is this host's /usr; that takes root. Each call is a line of STATE/calls.
With STATE/stopped there the service does not run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:  # every call is a process: it imports no more than it needs
    import tarfile
    from typing import Any

VERSION = "1.2.2"
REPEATED = {"--label", "--cap-add", "--cap-drop", "--network", "--mount", "--ulimit"}
VALUES = {
    "create": {"--name", "--entrypoint", "--uid", "--gid", "--workdir", "--cpus", "--memory", "--shm-size", "--dns", *REPEATED},
    "start": set(),
    "exec": {"--uid", "--gid", "--workdir"},
    "stop": {"--signal", "--time"},
    "delete": set(),
    "list": {"--format"},
    "system status": {"--format"},
    "system version": {"--format"},
    "image list": {"--format"},
    "image inspect": set(),
    "image load": {"--input"},
    "image pull": {"--platform", "--progress"},
    "image tag": set(),
    "image delete": set(),
}
FLAGS = {
    "create": {"--no-dns", "--read-only"},
    "exec": {"--interactive"},
    "delete": {"--force"},
    "list": {"--all"},
}
PASSED_ON = ("create", "exec")  # whose arguments after the first belong to the container
CAPABILITIES = {"CHOWN", "KILL", "SETGID", "SETPCAP", "SETUID", "NET_BIND_SERVICE", "DAC_OVERRIDE"}
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


class Refused(Exception):
    """What the program writes to stderr before it exits with 1."""


class Options:
    """The options of one call, by the reference's names."""

    def __init__(self, verb: str, words: list[str]) -> None:
        self.given: dict[str, list[str]] = {}
        self.flags: set[str] = set()
        self.rest: list[str] = []
        left = list(words)
        while left:
            word = left.pop(0)
            if not word.startswith("-"):
                self.rest.append(word)
                if verb in PASSED_ON:
                    self.rest += left
                    break
            elif word in FLAGS.get(verb, set()):
                self.flags.add(word)
            elif word in VALUES[verb] and left:
                if word in self.given and word not in REPEATED:
                    raise Refused(f"Error: {word} is given twice")
                self.given.setdefault(word, []).append(left.pop(0))
            else:
                raise Refused(f"Error: Unknown option '{word}'")

    def one(self, name: str, default: str = "") -> str:
        return self.given.get(name, [default])[0]

    def all(self, name: str) -> list[str]:
        return self.given.get(name, [])


def main(state: Path, words: list[str]) -> int:
    with (state / "calls").open("a") as log:
        log.write(json.dumps(words) + "\n")
    depth = 2 if words[:1] in (["system"], ["image"]) else 1
    verb = " ".join(words[:depth])
    if verb not in VALUES:
        print(f"Error: Unexpected argument '{verb}'", file=sys.stderr)
        return 64
    try:
        if (state / "stopped").exists() and not verb.startswith("system"):
            raise Refused("Error: interrupted: XPC connection error: Connection invalid")
        return globals()[f"do_{verb.replace(' ', '_')}"](state, Options(verb, words[depth:]))
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 1


def do_system_status(state: Path, options: Options) -> int:
    _is_json(options)
    runs = not (state / "stopped").exists()
    print(json.dumps({"status": "running" if runs else "unregistered", "appRoot": str(state), "apiServerVersion": VERSION}))
    return 0 if runs else 1


def do_system_version(state: Path, options: Options) -> int:
    _is_json(options)
    version = (state / "version").read_text() if (state / "version").exists() else VERSION
    print(json.dumps([{"appName": "container", "version": version, "buildType": "release", "commit": "0"}]))
    return 0


# -- images: STATE/images.json has them by reference, each as `image inspect` shows it


def do_image_load(state: Path, options: Options) -> int:
    import tarfile

    try:
        with tarfile.open(options.one("--input")) as archive:
            index = _member(archive, "index.json")
            images = _images(state)
            for top in index["manifests"]:
                reference = top["annotations"]["com.apple.containerization.image.name"]
                inner = _member(archive, _blob(top))
                variants = [_variant(archive, each) for each in inner["manifests"]]
                images[reference] = _image(reference, top["digest"], variants)
                print(reference)
    except (OSError, KeyError, tarfile.TarError, ValueError) as error:
        raise Refused(f"Error: invalidArgument: {error}") from error
    _write(state / "images.json", images)
    return 0


def do_image_pull(state: Path, options: Options) -> int:
    """From STATE/registry.json: reference -> the image's configuration, or a word that says what the registry answers."""
    (reference,) = options.rest
    there = json.loads((state / "registry.json").read_text()).get(reference, "notFound: 404 Not Found")
    if isinstance(there, str):
        raise Refused(f"Error: {there}")
    digest = there.pop("digest")
    variant = {"platform": {"os": "linux", "architecture": ARCHITECTURE}, "digest": digest, "size": 1234, "config": {"config": there}}
    _write(state / "images.json", {**_images(state), reference: _image(reference, digest, [variant])})
    return 0


def do_image_tag(state: Path, options: Options) -> int:
    source, target = options.rest
    found = _find(state, source)
    _write(
        state / "images.json", {**_images(state), target: _image(target, found["configuration"]["descriptor"]["digest"], found["variants"])}
    )
    return 0


def do_image_inspect(state: Path, options: Options) -> int:
    print(json.dumps([_find(state, each) for each in options.rest]))
    return 0


def do_image_list(state: Path, options: Options) -> int:
    _is_json(options)
    print(json.dumps(list(_images(state).values())))
    return 0


def do_image_delete(state: Path, options: Options) -> int:
    images = _images(state)
    for reference in options.rest:
        _find(state, reference)
        if any(record["image"] == reference for record in _records(state).values()):
            raise Refused(f"Error: invalidState: image {reference} is in use")
        del images[reference]
    _write(state / "images.json", images)
    return 0


def _image(reference: str, digest: str, variants: list[Any]) -> dict[str, Any]:
    return {"id": digest[7:], "configuration": {"name": reference, "descriptor": {"digest": digest}}, "variants": variants}


def _variant(archive: tarfile.TarFile, descriptor: dict[str, Any]) -> dict[str, Any]:
    manifest = _member(archive, _blob(descriptor))
    config = _member(archive, _blob(manifest["config"]))
    size = sum(layer["size"] for layer in manifest["layers"])
    return {"platform": descriptor["platform"], "digest": descriptor["digest"], "size": size, "config": config}


def _blob(descriptor: dict[str, Any]) -> str:
    return "blobs/" + descriptor["digest"].replace(":", "/")


def _member(archive: tarfile.TarFile, name: str) -> Any:
    file = archive.extractfile(name)
    assert file is not None
    return json.loads(file.read())


def _images(state: Path) -> dict[str, Any]:
    path = state / "images.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _find(state: Path, reference: str) -> Any:
    try:
        return _images(state)[reference]
    except KeyError:
        raise Refused(f'Error: notFound: "image not found: {reference}"') from None


# -- containers: STATE/machines/<name>/ with record.json, root/ (its disk) and, while it runs, pid


def do_create(state: Path, options: Options) -> int:
    image, *words = options.rest
    name = options.one("--name")
    if not (2 <= len(name) <= 63 and name[0].isalnum() and name.replace("-", "").replace("_", "").replace(".", "").isalnum()):
        raise Refused(f'Error: invalidArgument: "container ID {name} is not a valid container ID"')
    _find(state, image)
    networks = options.all("--network")
    if "none" in networks and len(networks) > 1:
        raise Refused("Error: unsupported: no other networks may be created along with network none")
    record = {
        "image": image,
        "argv": [options.one("--entrypoint"), *words],
        "uid": int(options.one("--uid", "0")),
        "labels": dict(label.split("=", 1) for label in options.all("--label")),
        "cpus": int(options.one("--cpus", "4")),
        "memory": _mebibytes(options.one("--memory", "1024M")),
        "capabilities": _capabilities(options.all("--cap-add"), options.all("--cap-drop")),
        "networks": networks,
        "resolver": options.one("--dns"),
        "read_only": "--read-only" in options.flags,
        "mounts": [_mount(text) for text in options.all("--mount")],
        "shm": _mebibytes(options.one("--shm-size", "64M")),
    }
    place = state / "machines" / name
    if place.exists():
        raise Refused(f'Error: exists: "container already exists: {name}"')
    _make_disk(place / "root")
    _write(place / "record.json", record)
    print(name)
    return 0


def do_start(state: Path, options: Options) -> int:
    import socket

    (name,) = options.rest
    place = _place(state, name)
    for mount in json.loads((place / "record.json").read_text())["mounts"]:
        if mount["type"] == "bind" and not os.path.isdir(mount["source"]):
            raise Refused(f"Error: invalidState: \"mount source path '{mount['source']}' does not exist\"")
    if _pid(place) is None:
        with socket.socket(socket.AF_UNIX) as service:
            service.connect(str(state / "service.sock"))
            service.sendall(str(place).encode())
            answer = service.recv(4096).decode()
        if not answer.isdecimal():
            raise Refused(f"Error: internalError: {answer}")
        (place / "pid").write_text(f"{answer} {_started(int(answer))}")
    print(name)
    return 0


def do_exec(state: Path, options: Options) -> int:
    name, *words = options.rest
    pid = _pid(_place(state, name))
    if pid is None:
        raise Refused(f'Error: invalidState: "container {name} is not running"')
    if "--interactive" not in options.flags:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    inner = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
    os.execvp("nsenter", ["nsenter", "--target", inner, "--mount", "--pid", "--net", "--ipc", "--uts", "--root", "--wd=/", "--", *words])


def do_stop(state: Path, options: Options) -> int:
    assert options.one("--signal") == "KILL"
    for name in options.rest:
        _end(_place(state, name))
        print(name)
    return 0


def do_delete(state: Path, options: Options) -> int:
    import shutil

    for name in options.rest:
        place = _place(state, name)
        if _pid(place) is not None and "--force" not in options.flags:
            raise Refused(f'Error: invalidState: "container {name} is running"')
        _end(place)
        shutil.rmtree(place)
        print(name)
    return 0


def do_list(state: Path, options: Options) -> int:
    _is_json(options)
    listed = []
    for name, record in _records(state).items():
        runs = _pid(state / "machines" / name) is not None
        if runs or "--all" in options.flags:
            status = {"state": "running" if runs else "stopped", "networks": []}
            listed.append({"id": name, "configuration": {"id": name, "labels": record["labels"]}, "status": status})
    print(json.dumps(listed))
    return 0


def _place(state: Path, name: str) -> Path:
    place = state / "machines" / name
    if not place.exists():
        raise Refused(f'Error: notFound: "container not found: {name}"')
    return place


def _records(state: Path) -> dict[str, Any]:
    found = (state / "machines").glob("*/record.json")
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(found)}


def _pid(place: Path) -> int | None:
    try:
        pid, started = (place / "pid").read_text().split()
        return int(pid) if _started(int(pid)) == started else None
    except (FileNotFoundError, ValueError):
        return None


def _started(pid: int) -> str:
    """The start time of a process that has not ended; 0 of one that has."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "0"
    return fields[19] if fields[0] not in "ZX" else "0"


def _end(place: Path) -> None:
    pid = _pid(place)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
        while _pid(place) is not None:
            time.sleep(0.005)
    (place / "pid").unlink(missing_ok=True)


def _make_disk(root: Path) -> None:
    """The image's files: this host's system as mount points and links, and what every image has."""
    import shutil

    root.mkdir(parents=True)
    for name in ("usr", "proc", "sys", "dev", "tmp", "etc", "root", "var", "var/tmp", "home"):
        (root / name).mkdir()
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    for name in SYSTEM:
        if Path("/", name).is_symlink():
            (root / name).symlink_to(Path("/", name).readlink())
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    if Path("/etc/ld.so.cache").exists():
        shutil.copy("/etc/ld.so.cache", root / "etc")
    if Path("/etc/alternatives").is_dir():
        shutil.copytree("/etc/alternatives", root / "etc/alternatives", symlinks=True)


def _mount(text: str) -> dict[str, Any]:
    """A `--mount`: type, source or size and mode, target, readonly; a source is a directory that exists."""
    fields: dict[str, Any] = {"type": "bind", "readonly": False}
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key == "readonly":
            fields["readonly"] = True
        elif key in ("type", "source", "target", "size", "mode"):
            fields[key] = value
        else:
            raise Refused(f'Error: invalidArgument: "unknown directive {key} when parsing mount {text}"')
    if fields["type"] == "tmpfs":
        if "source" in fields:
            raise Refused('Error: invalidArgument: "cannot specify source for tmpfs mount"')
        fields["size"] = _mebibytes(fields["size"])
    elif fields["type"] == "bind":
        if {"size", "mode"} & fields.keys():
            raise Refused('Error: invalidArgument: "unsupported option"')
        if not os.path.isdir(fields["source"]):
            raise Refused(f"Error: invalidArgument: \"path '{fields['source']}' is not a directory\"")
    else:
        raise Refused(f'Error: invalidArgument: "unsupported mount type {fields["type"]}"')
    return fields


def _mebibytes(text: str) -> int:
    if not (text.endswith("M") and text[:-1].isdecimal() and int(text[:-1]) > 0):
        raise Refused(f'Error: invalidArgument: "invalid size {text}"')
    return int(text[:-1])


def _capabilities(added: list[str], dropped: list[str]) -> list[str]:
    names = [name.removeprefix("CAP_") for name in added]
    if unknown := set(names) - CAPABILITIES:
        raise Refused(f'Error: invalidArgument: "unknown capability {sorted(unknown)}"')
    return names if dropped == ["ALL"] else sorted(CAPABILITIES)


def _is_json(options: Options) -> None:
    assert options.one("--format") == "json"


def _write(path: Path, value: object) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
