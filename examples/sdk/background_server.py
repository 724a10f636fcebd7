"""Runs a web server in the background of a sandbox that has no network, and talks to it from outside."""

import sys

from agentkernel import Client, Sandbox


def get(box: Sandbox, path: str) -> str:
    """One HTTP request to the sandbox's port 8000. Nothing listens on the host: the connection goes through the sandbox's own channel."""
    with box.connect(8000) as connection:
        connection.send(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        return connection.receive_all().decode().partition("\r\n\r\n")[2].strip()


with Client(local="--local" in sys.argv) as client:
    box = client.create(labels={"example": "server"}, ttl="10m")  # lives on when this program ends, ten minutes at most
    try:
        box.files.write_text("/home/user/site/hello.txt", "hello from inside", parents=True)
        server = box.spawn("python3", "-u", "-m", "http.server", "8000", "--bind", "127.0.0.1", cwd="/home/user/site")
        for chunk in server.output():
            if "Serving HTTP" in chunk.text:
                break
        print(get(box, "/hello.txt"))

        # Any other program of this user could do the same, knowing only the name and the id:
        again = client.get(box.name).process(server.exec_id)
        print("the same process:", again.pid == server.pid)
        again.kill()
        print("ended by signal", again.wait().signal)
    finally:
        box.remove(force=True)
