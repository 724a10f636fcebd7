"""Builds and runs the guest's unit tests with sanitizers, and fuzzes its parsers for a bounded time.

    python guest/tests/run.py [--fuzz-seconds 10] [NAME...]

Every test_*.c is a program that exits with zero; every fuzz_*.c defines LLVMFuzzerTestOneInput and is run by libFuzzer where clang has
it, else by random_main.c. Needs a C compiler with address and undefined-behaviour sanitizers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).resolve().parent
GUEST = TESTS.parent
VECTORS = GUEST.parent / "tests" / "vectors" / "protocol.json"
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
FLAGS = ["-g", "-O1", "-std=c11", "-D_GNU_SOURCE", "-DAK_HOSTED", *WARNINGS, "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
PROBE = "#include <stddef.h>\n#include <stdint.h>\nint LLVMFuzzerTestOneInput(const uint8_t *d, size_t n) { return d == 0 && n; }\n"


def c_bytes(data: bytes) -> str:
    return "{" + ",".join(str(b) for b in data or b"\0") + "}"


def vectors_header(document: dict[str, list[dict[str, object]]]) -> str:
    """tests/vectors/protocol.json as C tables, so that both ends are tested against the same bytes."""

    def raw(row: dict[str, object], key: str = "hex") -> bytes:
        return bytes.fromhex(str(row[key]))

    attach = {str(row["name"]): row for row in document["attach"]}
    lines = ["#include <stddef.h>", "#include <stdint.h>", f"#define VECTOR_TAG {attach['hello']['tag']}u"]
    for name in ("hello", "hello_reply"):
        lines.append(f"__attribute__((unused)) static const uint8_t vector_{name}[] = {c_bytes(raw(attach[name]))};")
    lines.append("struct vector { const char *name; int from_host; uint8_t type, flags; uint64_t id; uint32_t tag;")
    lines.append("size_t payload_size, size; const uint8_t *bytes; };")
    lines.append("__attribute__((unused)) static const struct vector vectors[] = {")
    for row in document["frames"]:
        data = raw(row)
        head = f'"{row["name"]}", {int(row["direction"] == "host")}, {row["type"]}, {row["flags"]}, {row["id"]}ull, {row["tag"]}u'
        lines.append(f"{{{head}, {len(data) - 20}, {len(data)}, (const uint8_t[]){c_bytes(data)}}},")
    lines.append("};\n#define VECTOR_COUNT (sizeof vectors / sizeof *vectors)")
    lines.append("__attribute__((unused)) static const struct { size_t size; const uint8_t *bytes; } bad_vectors[] = {")
    lines += [f"{{{len(raw(row))}, (const uint8_t[]){c_bytes(raw(row))}}}," for row in document["bad_frames"]]
    lines.append("};\n#define BAD_VECTOR_COUNT (sizeof bad_vectors / sizeof *bad_vectors)")
    lines.append("struct bad_payload { uint8_t type; unsigned error; size_t size; const uint8_t *bytes; };")
    lines.append("__attribute__((unused)) static const struct bad_payload bad_payloads[] = {")
    for row in document["bad_payloads"]:
        data = raw(row, "payload_hex")
        lines.append(f"{{{row['type']}, {row['errno']}, {len(data)}, (const uint8_t[]){c_bytes(data)}}},")
    lines.append("};\n#define BAD_PAYLOAD_COUNT (sizeof bad_payloads / sizeof *bad_payloads)\n")
    return "\n".join(lines)


def sources() -> list[str]:
    """The guest without its entry: each test has a main of its own."""
    return sorted(str(path) for path in GUEST.glob("*.c") if path.name != "start.c")


def has_libfuzzer(place: Path) -> bool:
    probe = place / "probe.c"
    probe.write_text(PROBE)
    argv = ["clang", "-fsanitize=fuzzer,address,undefined", "-o", str(place / "probe"), str(probe)]
    return shutil.which("clang") is not None and subprocess.run(argv, capture_output=True).returncode == 0


class Runner:
    """Compiles into one temporary directory; remembers what failed."""

    def __init__(self, place: Path, compiler: str) -> None:
        self.place = place
        self.compiler = compiler
        self.libfuzzer = has_libfuzzer(place)

    def compile(self, test: Path) -> tuple[Path, str]:
        """Returns the program and, if it could not be built, what the compiler said."""
        target = self.place / test.stem
        compiler, sanitizers, extra = self.compiler, "address,undefined", []
        if test.name.startswith("fuzz_") and self.libfuzzer:
            compiler, sanitizers = "clang", "fuzzer,address,undefined"
        elif test.name.startswith("fuzz_"):
            extra = [str(TESTS / "random_main.c")]
        argv = [compiler, *FLAGS, f"-fsanitize={sanitizers}", f"-I{GUEST}", f"-I{TESTS}", f"-I{self.place}"]
        done = subprocess.run([*argv, "-o", str(target), str(test), *extra, *sources()], capture_output=True, text=True)
        return target, done.stderr if done.returncode else ""

    def run(self, program: Path, fuzz_seconds: int, seeds: Path) -> bool:
        argv = [str(program)]
        if program.stem.startswith("fuzz_") and self.libfuzzer:
            corpus = self.place / f"{program.stem}.corpus"
            corpus.mkdir()
            limits = [f"-max_total_time={fuzz_seconds}", "-max_len=8192", "-print_final_stats=1", "-verbosity=0"]
            argv += [*limits, f"-artifact_prefix={tempfile.gettempdir()}/", str(corpus), str(seeds)]
        elif program.stem.startswith("fuzz_"):
            argv += [str(fuzz_seconds), *sorted(str(path) for path in seeds.iterdir())]
        done = subprocess.run(argv, cwd=self.place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        lines = done.stdout.splitlines()
        if done.returncode == 0:
            lines = [line for line in lines if "executed_units" in line or "inputs" in line or ": ok" in line]
        print("\n".join(lines))
        return done.returncode == 0


def write_seeds(seeds: Path, document: dict[str, list[dict[str, object]]]) -> None:
    seeds.mkdir()
    hello = next(row for row in document["attach"] if row["name"] == "hello")
    for kind in ("attach", "frames", "bad_frames"):
        for row in document[kind]:
            (seeds / f"{kind}-{row['name']}").write_bytes(bytes.fromhex(str(hello["hex"])) + bytes.fromhex(str(row["hex"])))


def run_all(names: list[str], fuzz_seconds: int) -> list[str]:
    """Returns the names of what failed."""
    tests = sorted(TESTS.glob("test_*.c")) + (sorted(TESTS.glob("fuzz_*.c")) if fuzz_seconds else [])
    tests = [test for test in tests if not names or test.stem in names]
    compiler = shutil.which("gcc") or shutil.which("clang") or "cc"
    document = json.loads(VECTORS.read_text())
    failed = []
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(4) as pool:
        runner = Runner(Path(directory), compiler)
        (runner.place / "vectors.h").write_text(vectors_header(document))
        write_seeds(runner.place / "seeds", document)
        for test, (program, complaint) in zip(tests, pool.map(runner.compile, tests), strict=True):
            print(f"-- {test.stem}", flush=True)
            if complaint:
                print(complaint, file=sys.stderr)
            if complaint or not runner.run(program, fuzz_seconds, runner.place / "seeds"):
                failed.append(test.stem)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description="unit tests and bounded fuzzing of the guest")
    parser.add_argument("--fuzz-seconds", type=int, default=10, help="per fuzzer; 0: do not fuzz (default: %(default)s)")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these, e.g. test_ring")
    arguments = parser.parse_args()
    failed = run_all(arguments.names, arguments.fuzz_seconds)
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
