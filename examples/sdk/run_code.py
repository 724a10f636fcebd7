"""Runs code that nobody has read, with limits of its own, and tells apart how it can end."""

import sys

from agentkernel import Client
from agentkernel.errors import TimedOut

SNIPPETS = {
    "works": "print(sum(range(10)))",
    "fails": "raise ValueError('not today')",
    "never ends": "while True: pass",
    "wants too much": "x = 'x' * 2**30",
    "looks around": "import os; print('homes:', os.listdir('/home'), 'may write /usr:', os.access('/usr', os.W_OK))",
}

with Client(local="--local" in sys.argv) as client:
    for name, code in SNIPPETS.items():
        # One sandbox each: what one leaves behind, the next does not find.
        with client.sandbox(profile="restrictive", memory="128MiB", pids=32) as box:
            try:
                result = box.exec("python3", "-", stdin=code, timeout="2s")
            except TimedOut:
                print(f"{name}: stopped after two seconds")
                continue
            last = (result.text or result.error_text).strip().rpartition("\n")[2]
            limits = "".join(f" (limit: {limit})" for limit in result.status.limits_hit)
            print(f"{name}: exit {result.exit_code}{limits} {last}")
