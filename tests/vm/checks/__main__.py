"""Runs the checks named by the arguments (parts of their names), or all."""

from __future__ import annotations

import json
import os
import sys

from checks import as_dev, as_root, harness  # noqa: F401 - importing a module registers its checks


def main() -> int:
    wanted = sys.argv[1:]
    if wanted:
        harness.CHECKS[:] = [entry for entry in harness.CHECKS if any(part in entry[0] for part in wanted)]
    print(json.dumps({"kernel": os.uname().release, "checks": len(harness.CHECKS)}), flush=True)
    failures = harness.report(sys.stdout)
    print(json.dumps({"failures": failures}), flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
