"""Real programs in gVisor: Python, Node and Go, with what such programs do - servers, threads, processes, sockets, databases, files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from conformance.roots import ENVIRONMENT, host_root

from agentkernel.abc import Sandbox
from agentkernel.backends.gvisor.backend import GvisorBackend
from agentkernel.model.command import Command
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.spec import Resources, SandboxSpec, Workspace, WorkspaceMode

PYTHON = """
import hashlib, http.server, multiprocessing, os, pathlib, platform, sqlite3, ssl, subprocess, tempfile, threading, urllib.request, zipfile

class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")
    def log_message(self, *_):
        pass

def square(number):
    return number * number

if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    fetched = [urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/").read() for _ in range(20)]
    print("http", set(fetched) == {b"hello"})
    with multiprocessing.Pool(3) as pool:
        print("pool", sum(pool.map(square, range(100))))
    with multiprocessing.Manager() as manager:  # a unix socket in a temporary directory
        shared = manager.dict()
        shared["a"] = 1
        print("manager", dict(shared))
    with sqlite3.connect("data.db") as database:
        database.execute("create table t (n)")
        database.executemany("insert into t values (?)", [(n,) for n in range(1000)])
    print("sqlite", sqlite3.connect("data.db").execute("select sum(n) from t").fetchone())
    for place in (".", tempfile.gettempdir(), str(pathlib.Path.home())):
        made = [pathlib.Path(place, f"file{n}") for n in range(50)]
        for path in made:
            path.write_bytes(os.urandom(1000))
        made[0].rename(pathlib.Path(place, "renamed"))
        os.symlink("renamed", f"{place}/link")
        print("files", place, len(os.listdir(place)) >= 51, os.path.getsize(f"{place}/link"))
    with zipfile.ZipFile("z.zip", "w") as archive:
        archive.write("renamed")
    print("run", subprocess.run(["sh", "-c", "echo $((6*7))"], capture_output=True).stdout)
    print("tls", ssl.create_default_context().verify_mode.name, len(hashlib.sha256(b"x").hexdigest()))
    print("kernel", platform.release())
"""

NODE = """
const http = require('http'), fs = require('fs'), {execFileSync} = require('child_process');
const {Worker} = require('worker_threads'), crypto = require('crypto'), net = require('net');
const server = http.createServer((request, answer) => answer.end('hello')).listen(0, '127.0.0.1', async () => {
  const url = `http://127.0.0.1:${server.address().port}/`;
  const texts = await Promise.all([...Array(20)].map(async () => (await fetch(url)).text()));
  console.log('http', texts.every(text => text === 'hello'));
  const code = "const {parentPort} = require('worker_threads'); parentPort.postMessage(6 * 7)";
  const worker = new Worker(code, {eval: true});
  console.log('worker', await new Promise(done => worker.on('message', done)));
  console.log('child', execFileSync('sh', ['-c', 'echo child']).toString().trim());
  const seen = new Promise(done => fs.watch('.', (kind, name) => done(name)));
  fs.writeFileSync('made.txt', 'x');
  console.log('watch', await seen);
  const unix = net.createServer(socket => socket.end('over unix')).listen('own.sock', () => {
    const data = []; net.connect('own.sock').on('data', piece => data.push(piece)).on('end', () => {
      console.log('unix', Buffer.concat(data).toString());
      console.log('hash', crypto.createHash('sha256').update('x').digest('hex').length);
      process.exit(0);
    });
  });
});
"""

GO = """
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
)

func main() {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	var wait sync.WaitGroup
	failed := make(chan error, 200)
	for i := 0; i < 100; i++ {
		wait.Add(1)
		go func() {
			defer wait.Done()
			c, err := net.Dial("tcp", server.Addr().String())
			if err == nil {
				c.Write([]byte("hello"))
				c.(*net.TCPConn).CloseWrite()
				_, err = io.ReadAll(c)
				c.Close()
			}
			if err != nil {
				failed <- err
			}
		}()
	}
	wait.Wait()
	fmt.Println("tcp", len(failed))
	listener, err := net.Listen("unix", os.TempDir()+"/own.sock")
	if err != nil {
		panic(err)
	}
	go func() { c, _ := listener.Accept(); c.Write([]byte("over unix")); c.Close() }()
	c, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		panic(err)
	}
	said, _ := io.ReadAll(c)
	fmt.Println("unix", string(said))
	out, err := exec.Command("sh", "-c", "echo child").Output()
	fmt.Println("child", string(out[:5]), err, runtime.NumGoroutine() > 0)
}
"""


@pytest.fixture
async def sandbox(state_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    """With a private view of `tmp_path`."""
    if "AGENTKERNEL_TEST_RUNSC" in os.environ:
        monkeypatch.setenv("AGENTKERNEL_RUNSC", os.environ["AGENTKERNEL_TEST_RUNSC"])
    backend = GvisorBackend(state_directory)
    found = await backend.probe()
    if not found.ready:
        pytest.skip(f"gVisor is not ready on this host: {found.reason}")
    tmp_path.chmod(0o755)
    spec = SandboxSpec(
        name="programs",
        profile="moderate",
        root=host_root(),
        environment=ENVIRONMENT,
        level=IsolationLevel.USER_KERNEL,
        workspace=Workspace(mode=WorkspaceMode.COPY_ON_WRITE, source=str(tmp_path)),
        resources=Resources(memory_bytes=1024 * 2**20, cpus=2.0),
    )
    made = await backend.create(spec)
    yield made
    await made.destroy()


def needs(program: str) -> None:
    if not Path(program).exists():
        pytest.skip(f"needs {program}")


async def said(sandbox: Sandbox, *argv: str) -> list[str]:
    result = await sandbox.exec(Command(argv=tuple(word.encode() for word in argv), timeout_s=120))
    assert (result.exit_code, result.stderr) == (0, b""), result
    return result.stdout.decode().splitlines()


async def test_python(sandbox: Sandbox, tmp_path: Path) -> None:
    needs("/usr/bin/python3")
    (tmp_path / "program.py").write_text(PYTHON)
    assert await said(sandbox, "/usr/bin/python3", "program.py") == [
        "http True",
        "pool 328350",
        "manager {'a': 1}",
        "sqlite (499500,)",
        "files . True 1000",
        "files /tmp True 1000",
        "files /home/user True 1000",
        "run b'42\\n'",
        "tls CERT_REQUIRED 64",
        "kernel 4.4.0",
    ]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["program.py"], "the host's directory has changed"


async def test_node(sandbox: Sandbox, tmp_path: Path) -> None:
    needs("/usr/bin/node")
    (tmp_path / "program.js").write_text(NODE)
    expected = ["http true", "worker 42", "child child", "watch made.txt", "unix over unix", "hash 64"]
    assert await said(sandbox, "/usr/bin/node", "program.js") == expected


async def test_go(sandbox: Sandbox, tmp_path: Path) -> None:
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        pytest.skip("needs Go's compiler, on the host")
    source = tmp_path / "main.go"
    source.write_text(GO)
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "GO111MODULE": "off"}
    subprocess.run([go, "build", "-o", str(tmp_path / "program"), str(source)], check=True, env=environment, cwd=tmp_path)
    assert await said(sandbox, "./program") == ["tcp 0", "unix over unix", "child child <nil> true"]
