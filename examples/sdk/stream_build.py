"""Builds a project of this machine in a sandbox and shows the build's output while it runs. The project itself is not touched."""

import sys
import tempfile
from pathlib import Path

from agentkernel import Client

PROJECT = Path(__file__).parent.parent / "make-project"

with Client(local="--local" in sys.argv) as client, tempfile.TemporaryDirectory() as results:
    # `directory` is shown at /workspace as a private copy: the build writes there, the host's files stay as they are.
    with client.sandbox(directory=str(PROJECT), cpus=2) as box:
        build = box.stream("make", "-B", "all", "check", timeout="2m")
        for chunk in build:
            print(chunk.text, end="", file=sys.stderr if chunk.stream == 2 else sys.stdout, flush=True)
        print(f"make exited with {build.exit_code}")
        box.files.download("/workspace/build/wordfreq", f"{results}/wordfreq")

    assert not (PROJECT / "build").exists()
    program = Path(results, "wordfreq")
    print("a program came back:", program.read_bytes()[:4] == b"\x7fELF", "executable:", bool(program.stat().st_mode & 0o100))
