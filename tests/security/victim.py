"""A process of the host with secrets in every place where a sandbox could look: started by the oracle, run as a program.

    python victim.py DIRECTORY SECRET

Prints one line of JSON that says where everything is, then serves until its input ends, and removes what it made.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import select
import signal
import socket
import sys
from pathlib import Path

IPC_CREAT, IPC_RMID, PR_SET_PTRACER, ANY = 0o1000, 0, 0x59616D61, -1


def main() -> None:
    directory, secret = Path(sys.argv[1]), sys.argv[2].encode()
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(PR_SET_PTRACER, ANY, 0, 0, 0)  # with Yama: anybody may try
    library.shmat.restype = ctypes.c_void_p
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    memory = ctypes.create_string_buffer(secret, 256)
    held = os.open(directory / "secret", os.O_RDONLY)

    key = secrets.randbelow(2**30) + 1
    shared = library.shmget(key, 4096, IPC_CREAT | 0o666)
    ctypes.memmove(library.shmat(shared, None, 0), secret, len(secret))
    messages = library.msgget(key, IPC_CREAT | 0o666)
    library.msgsnd(messages, (1).to_bytes(8, sys.byteorder) + secret, len(secret), 0)
    real_time = ctypes.CDLL("librt.so.1", use_errno=True)
    queue_name = f"/agentkernel-{key}"
    queue = real_time.mq_open(queue_name.encode(), os.O_CREAT | os.O_RDWR, 0o666, None)
    real_time.mq_send(queue, secret, len(secret), 0)
    named = Path("/dev/shm") / f"agentkernel-{key}"
    named.write_bytes(secret)
    named.chmod(0o666)

    abstract = _listening(socket.AF_UNIX, f"\0agentkernel-{key}")
    path = directory / "victim.sock"
    public = _listening(socket.AF_UNIX, str(path))
    path.chmod(0o666)
    tcp = _listening(socket.AF_INET, ("0.0.0.0", 0))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("0.0.0.0", 0))
    facts = {
        "AK_VICTIM": os.getpid(),
        "AK_ADDRESS": f"{ctypes.addressof(memory):x}",
        "AK_DESCRIPTOR": held,
        "AK_SHM": key,
        "AK_MSG": key,
        "AK_MQ": queue_name,
        "AK_DEVSHM": named.name,
        "AK_ABSTRACT": f"agentkernel-{key}",
        "AK_SOCKET": str(path),
        "AK_TCP": tcp.getsockname()[1],
        "AK_UDP": udp.getsockname()[1],
        "AK_ADDRESS_OUTSIDE": _own_address(),
    }
    print(json.dumps({name: str(value) for name, value in facts.items()}), flush=True)
    try:
        _serve([abstract, public, tcp], udp, secret)
    finally:
        library.shmctl(shared, IPC_RMID, None)
        library.msgctl(messages, IPC_RMID, None)
        real_time.mq_unlink(queue_name.encode())
        named.unlink()


def _listening(family: int, address: object) -> socket.socket:
    server = socket.socket(family, socket.SOCK_STREAM)
    server.bind(address)
    server.listen(64)
    return server


def _own_address() -> str:
    """An address of this host that is not loopback, or nothing; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def _serve(servers: list[socket.socket], udp: socket.socket, secret: bytes) -> None:
    while True:
        readable, _, _ = select.select([sys.stdin, udp, *servers], [], [])
        for each in readable:
            if each is sys.stdin:
                return
            if each is udp:
                udp.sendto(secret, udp.recvfrom(512)[1])
            else:
                connection, _ = each.accept()
                with connection:
                    connection.sendall(secret)


main()
