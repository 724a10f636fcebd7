"""The filters in the kernel: a child process installs one and then tries."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agentkernel.policy.profiles import PROFILES
from agentkernel.policy.seccomp import compile_filter
from agentkernel.policy.syscall_numbers import NUMBERS

ARCHITECTURE = platform.machine()
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="this machine does not run Linux, whose filters these are"),
    pytest.mark.skipif(ARCHITECTURE not in NUMBERS, reason=f"there is no filter for this machine's architecture, {ARCHITECTURE}"),
]

TABLES = sorted({profile.seccomp for profile in PROFILES.values()})

# Reads {"filter": hex or "", ...} from argv[1]. Installs the filter, then runs argv[2:] or tries the listed calls.
CHILD = r"""
import ctypes, json, mmap, os, sys
plan = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
def install():
    code = bytes.fromhex(plan["filter"])
    if not code:
        return
    buffer = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.addressof(buffer))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0, os.strerror(ctypes.get_errno())
def attempt(number, arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_ulong(argument) for argument in arguments])
    return -ctypes.get_errno() if result == -1 else 0
def i386_getpid():
    page = mmap.mmap(-1, 4096, prot=7)
    page.write(bytes.fromhex("53b814000000cd804898" "5bc3"))  # push rbx; mov eax, 20; int 0x80; cdqe; (cwde); pop rbx; ret
    page.seek(0)
    function = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    return min(function(), 0)
if len(sys.argv) > 2:
    install()
    os.execvp(sys.argv[2], sys.argv[2:])
scratch = ctypes.addressof(ctypes.create_string_buffer(4096))
install()
result = {name: attempt(number, [scratch if argument == "scratch" else argument for argument in arguments]) for name, number, arguments in plan["calls"]}
if plan["i386"]:
    result["i386 getpid"] = i386_getpid()
print(json.dumps(result))
"""

EPERM, EINVAL, ENOSYS, EPROTONOSUPPORT = -1, -22, -38, -93

# Each of these succeeds, or fails in another way, without the filter, whoever runs it: label, syscall, arguments, answer of the filter.
CALLS: list[tuple[str, str, list[int | str], int]] = [
    ("unshare nothing", "unshare", [0], EPERM),
    ("setns", "setns", [-1, 0], EPERM),
    ("clone3", "clone3", [0, 0], ENOSYS),
    ("clone into a namespace, impossible flags", "clone", [0x10000000 | 0x00000200 | 0x00010000, 0, 0, 0, 0], EPERM),
    ("keyctl", "keyctl", [0xFFFF, 0, 0, 0, 0], EPERM),
    ("add_key", "add_key", [0, 0, 0, 0, 0], EPERM),
    ("process_vm_readv", "process_vm_readv", [os.getpid(), 0, 0, 0, 0, 0], EPERM),
    ("pidfd_getfd", "pidfd_getfd", [-1, 0, 0], EPERM),
    ("name_to_handle_at", "name_to_handle_at", [-1, 0, 0, 0, 0], EPERM),
    ("set_mempolicy", "set_mempolicy", [0xFFFF, 0, 0], EPERM),
    ("clock_adjtime, reading", "clock_adjtime", [0, "scratch"], EPERM),
    ("personality without address randomisation", "personality", [0x0040000], EPERM),
    ("TIOCSTI", "ioctl", [-1, 0x5412, "scratch"], EPERM),
    ("TIOCSTI with a high bit", "ioctl", [-1, 1 << 32 | 0x5412, "scratch"], EPERM),
    ("audit netlink", "socket", [16, 3, 15], EPROTONOSUPPORT),
    ("node that is a device", "mknodat", [-1, 0, 0o020600, 0], EPERM),
    ("a set-user-id mode", "fchmod", [-1, 0o4755], EPERM),
    ("a file that is made with a set-user-id mode", "openat", [-1, 0, 0o100, 0o4755], EPERM),
    ("openat2", "openat2", [-1, 0, 0, 0], ENOSYS),
    ("limits of another process", "prlimit64", [os.getpid(), 7, 0, 0], EPERM),
]


def child(table: str | None, *command: str, calls: bool = False, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    code = compile_filter(table, ARCHITECTURE).hex() if table is not None else ""
    numbers = NUMBERS[ARCHITECTURE]
    listed = [
        (label, numbers[name], [a if isinstance(a, str) else a & 2**64 - 1 for a in arguments]) for label, name, arguments, _ in CALLS
    ]
    listed.append(("a number beyond all tables", 9999, []))
    if ARCHITECTURE == "x86_64":
        listed.append(("x32 getpid", 0x40000000 | numbers["getpid"], []))
    plan = {"filter": code, "calls": listed if calls else [], "i386": calls and ARCHITECTURE == "x86_64"}
    home = os.path.expanduser("~")
    environment = {"RUSTUP_HOME": f"{home}/.rustup", **os.environ, "HOME": str(cwd or "/"), "GO111MODULE": "off", "GOTOOLCHAIN": "local"}
    if cwd is not None:
        environment["GOCACHE"] = str(cwd.parent / "go-cache")  # shared by the tests of a run: its first filling takes seconds
    return subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(plan), *command], capture_output=True, text=True, timeout=120, cwd=cwd, env=environment
    )


def outcomes(table: str | None) -> dict[str, int]:
    done = child(table, calls=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result


@pytest.mark.parametrize("table", TABLES)
def test_the_kernel_refuses_what_the_table_refuses(table: str) -> None:
    seen = outcomes(table)
    expected = {label: answer for label, _, _, answer in CALLS} | {"a number beyond all tables": ENOSYS}
    if ARCHITECTURE == "x86_64":
        expected |= {"x32 getpid": ENOSYS, "i386 getpid": ENOSYS}
    assert seen == expected


def test_without_the_filter_the_same_calls_end_otherwise() -> None:
    seen = outcomes(None)
    assert [label for label, _, _, answer in CALLS if seen[label] == answer] == [], "these calls prove nothing about the filter"
    if ARCHITECTURE == "x86_64":
        assert seen["x32 getpid"] in (0, ENOSYS)  # a kernel may be built without it


PYTHON_AT_WORK = """
import asyncio, concurrent.futures, multiprocessing, os, socket, subprocess, tempfile, threading
assert subprocess.run(["sh", "-c", "exit 3"]).returncode == 3
assert list(concurrent.futures.ThreadPoolExecutor(4).map(abs, range(9))) == list(range(9))
with multiprocessing.get_context("spawn").Pool(2) as pool:
    assert pool.map(abs, [-1, -2]) == [1, 2]
async def main():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await reader.read() == b""
    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0
asyncio.run(main())
socket.getaddrinfo("localhost", 80)
with tempfile.TemporaryDirectory() as directory:
    os.mkfifo(os.path.join(directory, "fifo"))
print("done")
"""
NODE_AT_WORK = """
const { Worker } = require('worker_threads'); const fs = require('fs'); const net = require('net'); const os = require('os');
const { execFileSync } = require('child_process'); const zlib = require('zlib');
os.networkInterfaces(); execFileSync('true'); fs.mkdtempSync('dir-'); zlib.gzipSync('x'.repeat(99999));
const server = net.createServer(s => s.end('x')).listen(0, '127.0.0.1', () => net.connect(server.address().port).on('data', () => {
  new Worker('require("worker_threads").parentPort.postMessage(1)', { eval: true }).on('message', () => fs.promises.readdir('.').then(() => {
    console.log('done'); process.exit(0); })); }));
"""
C_AT_WORK = """cat > a.c <<'E'
#include <pthread.h>
#include <stdio.h>
static void *f(void *p) { return p; }
int main(void) { pthread_t t; if (pthread_create(&t, 0, f, 0) || pthread_join(t, 0)) return 1; puts("done"); return 0; }
E
cc -pipe -O1 -pthread -o a a.c && ./a"""
GO_AT_WORK = """cat > a.go <<'E'
package main
import ("fmt"; "net"; "os/exec")
func main() {
  l, e := net.Listen("tcp", "127.0.0.1:0"); if e != nil { panic(e) }
  go func() { c, _ := l.Accept(); c.Close() }()
  c, e := net.Dial("tcp", l.Addr().String()); if e != nil { panic(e) }
  c.Close()
  if e := exec.Command("true").Run(); e != nil { panic(e) }
  fmt.Println("done") }
E
go run a.go"""
RUST_AT_WORK = """cat > a.rs <<'E'
fn main() { let t = std::thread::spawn(|| std::process::Command::new("true").status().unwrap().success()); assert!(t.join().unwrap()); println!("done"); }
E
rustc -o a a.rs && ./a"""
JAVA_AT_WORK = """cat > A.java <<'E'
public class A { public static void main(String[] a) throws Exception {
  Thread t = new Thread(() -> {}); t.start(); t.join(); new ProcessBuilder("true").start().waitFor(); System.out.println("done"); } }
E
java -Xmx64m A.java"""
GIT_AT_WORK = """git init -q . && echo x > x && git add x && git -c user.name=a -c user.email=a@b commit -qm x && git gc -q && git log --oneline | wc -l
echo done"""
SHELL_AT_WORK = "ls -la / | sort | head -3 >/dev/null; mkdir -p a/b && cp -r a c && tar cf x.tar a && rm -rf a c && chmod 755 x.tar && sleep 0.01; echo done"

PROGRAMS = {
    "sh": ["sh", "-ec", SHELL_AT_WORK],
    "python3": [sys.executable, "-c", PYTHON_AT_WORK],
    "git": ["sh", "-ec", GIT_AT_WORK],
    "node": ["node", "-e", NODE_AT_WORK],
    "cc": ["sh", "-ec", C_AT_WORK],
    "go": ["sh", "-ec", GO_AT_WORK],
    "rustc": ["sh", "-ec", RUST_AT_WORK],
    "java": ["sh", "-ec", JAVA_AT_WORK],
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_real_programs_run_under_the_filter(program: str, table: str, tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"this machine lacks {program}")
    done = child(table, *PROGRAMS[program], cwd=tmp_path)
    assert (done.returncode, done.stdout.strip().splitlines()[-1:]) == (0, ["done"]), done.stderr
