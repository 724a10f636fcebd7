"""One file operation as a careless program does it: `python careless.py OPERATION PATH`. Exit 3: it would have filled the memory."""

from __future__ import annotations

import os
import resource
import shutil
import sys

LIMIT_BYTES = 400 * 1024 * 1024


def main(operation: str, path: str) -> None:
    if operation == "read":
        with open(path, "rb") as file:
            sys.stdout.buffer.write(file.read())
    elif operation in ("write", "append"):
        with open(path, "wb" if operation == "write" else "ab") as file:
            file.write(b"from the host\n")
    elif operation == "list":
        print(os.listdir(path))
    elif operation == "remove":
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    elif operation == "mkdir":
        os.mkdir(path)
    elif operation == "chmod":
        os.chmod(path, 0o600)
    else:
        raise SystemExit(f"unknown operation {operation}")


resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
try:
    main(sys.argv[1], sys.argv[2])
except (MemoryError, OverflowError):
    sys.exit(3)
