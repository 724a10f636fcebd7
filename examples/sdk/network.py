"""Lets a sandbox talk to nobody but the hosts that it needs, shows what it tried, and publishes a server that runs in it."""

import sys
import urllib.request

from agentkernel import Client

FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=20).status)"

with Client(local="--local" in sys.argv) as client, client.sandbox(only_hosts=True, allow_hosts=["pypi.org"], ports=[8000]) as box:
    result = box.exec("python3", "-c", FETCH, "http://example.com/")
    print("exit", result.exit_code, result.error_text.splitlines()[-1])
    for decision in box.network_log():
        print(decision.verdict, f"{decision.host}:{decision.port}", "by rule:", decision.rule)

    rules = box.allow("example.com", "*.example.org:443")  # holds at once: the next attempt would go through
    print("may talk to:", " ".join(map(str, rules.allow)), "and otherwise to:", rules.base)

    box.files.write_text("/home/user/site/hello.txt", "hello from inside", parents=True)
    server = box.spawn("python3", "-u", "-m", "http.server", "8000", "--bind", "127.0.0.1", cwd="/home/user/site")
    for chunk in server.output():
        if "Serving HTTP" in chunk.text:
            break
    (port,) = box.ports()
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        f"http://{port.host_address}:{port.host_port}/hello.txt"
    ) as answer:
        print(answer.read().decode())
