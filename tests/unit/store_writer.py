"""A process that writes to a store until somebody kills it, and says on stdout what it was told is done: one JSON line per call.

    python -m unit.store_writer DIRECTORY SEED [LIMIT_BYTES]

With LIMIT_BYTES no file may grow beyond so many bytes; a call that then fails is told as such, and after the tenth there is room again.
"""

from __future__ import annotations

import json
import random
import resource
import sys
from dataclasses import replace
from pathlib import Path

from unit.store_samples import a_record, an_event

from agentkernel.errors import StoreFailed
from agentkernel.model.status import Status
from agentkernel.store.sqlite import SqliteStore


def say(**told: object) -> None:
    """One line, written at once."""
    print(json.dumps(told), flush=True)


def one_call(store: SqliteStore, dice: random.Random, names: dict[str, str]) -> dict[str, object]:
    """Does something random; `names` is what the store holds by then. Returns what to tell."""
    choice = dice.random()
    if choice < 0.4 or not names:
        record = a_record(f"box-{dice.randrange(2**60):x}", sandbox_id=f"{dice.randrange(2**63):016x}", ephemeral=dice.random() < 0.5)
        store.insert(record, an_event(sandbox_id=record.sandbox_id))
        names[record.sandbox_id] = record.name
        return {"put": record.sandbox_id, "name": record.name}
    sandbox_id = dice.choice(sorted(names))
    if choice < 0.7:
        record = store.get(sandbox_id)
        assert record is not None
        store.update(replace(record, name=record.name + "x", status=Status.RUNNING), an_event(sandbox_id=sandbox_id))
        names[sandbox_id] += "x"
        return {"put": sandbox_id, "name": names[sandbox_id]}
    if choice < 0.85:
        return {"event": store.append(an_event(sandbox_id=sandbox_id)).event_id}
    store.delete(sandbox_id, an_event(sandbox_id=sandbox_id))
    del names[sandbox_id]
    return {"gone": sandbox_id}


def main(directory: str, seed: str, limit_bytes: str = "0") -> None:
    """Writes for ever."""
    dice = random.Random(int(seed))
    store = SqliteStore(Path(directory))
    names = {record.sandbox_id: record.name for record in store.sandboxes()}
    if int(limit_bytes):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit_bytes), resource.RLIM_INFINITY))
    failures = 0
    while True:
        try:
            told = one_call(store, dice, names)
        except StoreFailed as error:
            failures += 1
            say(failed=error.message, hint=error.hint)
            if failures == 10:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        else:
            say(**told)


if __name__ == "__main__":
    main(*sys.argv[1:])
