"""Takes data into a sandbox, runs a program over it there, and brings a tree of results back."""

import sys
import tempfile
from pathlib import Path

from agentkernel import Client

PROGRAM = """
import collections, pathlib
out = pathlib.Path("results")
for path in sorted(pathlib.Path("data").glob("*.txt")):
    words = collections.Counter(path.read_text().split())
    target = out / path.stem / "words.csv"
    target.parent.mkdir(parents=True)
    target.write_text("".join(f"{word},{count}\\n" for word, count in words.most_common()))
(out / "latest").symlink_to(path.stem)
"""

with tempfile.TemporaryDirectory() as place, Client(local="--local" in sys.argv) as client:
    data = Path(place, "data")
    data.mkdir()
    (data / "one.txt").write_text("a b a")
    (data / "two.txt").write_text("c c c d")

    with client.sandbox() as box:
        box.files.upload(data, "/home/user/data")
        box.exec("python3", "-", stdin=PROGRAM, cwd="/home/user", check=True)
        copied = box.files.download("/home/user/results", Path(place, "results"))

    print(f"{copied.files} files, {copied.symlinks} symlink, {copied.bytes} bytes")
    for path in sorted(Path(place, "results").rglob("words.csv")):
        print(path.parent.name, path.read_text().split())
    print("latest is", Path(place, "results", "latest").readlink())
