"""What was acknowledged, and therefore must be so; and what was asked without an answer, and therefore may be so."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from reliability.lives import Answer, Lives

ANYTHING = "*"  # a file may hold what nobody wrote as such: a part
MAX_ARGUMENT = 100_000  # bytes of a shell script, which is one argument
NUMBERS = 20_000  # of a command with much output: 109 KB
UNTYPED_IS_FINE = bool(os.environ.get("CAMPAIGN_UNTYPED"))
LINES = 12  # of a background command's output


class Violation(Exception):
    """Something acknowledged was lost, or something was told that is not so."""


@dataclass
class Box:
    """One sandbox as it must be. None: either way, until somebody looks."""

    name: str
    dice: random.Random
    exists: bool | None = False
    running: bool | None = False
    sandbox_id: str = ""
    also: str = ""  # the name that it may have instead
    files: dict[str, set[str]] = field(default_factory=dict)  # path -> what it may hold; "" stands for: not there
    logs: dict[int, bool] = field(default_factory=dict)  # exec id -> whether nothing has hindered it, so that its output must be whole
    agent_harmed: bool = False

    @property
    def is_sure(self) -> bool:
        """Whether an operation on it has an outcome that can be told beforehand."""
        return self.exists is not None and self.running is not None and not self.also

    def harmed(self) -> None:
        """Its processes were ended from outside, or may have been."""
        self.agent_harmed = True
        if self.running:
            self.running = None
        self.logs = dict.fromkeys(self.logs, False)


class World:
    """Boxes, and random operations on them that keep the books. `tolerant`: operations may fail, for something fails beneath them."""

    def __init__(self, session: Lives, seed: str, count: int) -> None:
        self._session = session
        self._dice = random.Random(f"{seed}:world")
        self._count = 0
        self.boxes = [Box(name=f"box{index}", dice=random.Random(f"{seed}:{index}")) for index in range(count)]
        self.tolerant = False
        self.fill_s = 0.2  # in which a pool gets a member
        self.told: list[str] = []  # the last operations, for whoever reads about a violation
        self.operations = 0

    def token(self) -> str:
        """Text that was never used before."""
        self._count += 1
        return f"t{self._count}-{self._dice.randrange(1 << 32):08x}"

    async def step(self, box: Box) -> None:
        """Something random that makes sense in the state of the box."""
        if not box.is_sure:
            await self.look(box)
            if not box.is_sure:
                return
        if not box.exists:
            return await self.create(box)
        acts: list[tuple[Callable[[Box], Coroutine[Any, Any, None]], int]]
        if box.running:
            acts = [
                (self.write, 30),
                (self.read, 15),
                (self.exec, 15),
                (self.bulk, 6),
                (self.stop, 15),
                (self.remove, 6),
                (self.detach, 8),
                (self.rename, 5),
            ]
        else:
            acts = [(self.start, 65), (self.remove, 15), (self.rename, 15), (self.run, 5)]
        await box.dice.choices([act for act, _ in acts], [weight for _, weight in acts])[0](box)

    async def go(self, box: Box, way: str) -> None:
        """What leads to a step of that kind, whatever the box is in now."""
        if way == "run":
            return await self.run()
        if way in ("fill", "members"):  # a pool begins with the second ask
            for pause_s in (0.0, self.fill_s, 0.0 if way == "members" else 0.1):
                await self.run()
                await asyncio.sleep(pause_s)
            return None
        if way == "fill-lasting":
            for pause_s in (0.0, self.fill_s, 0.0):
                await self.go(box, "create-running")
                await asyncio.sleep(pause_s)
            return None
        if way in ("stop", "detach", "bulk", "adopt", "die"):
            await self.bring(box, running=True)
            if box.running and way in ("stop", "detach", "bulk"):
                await getattr(self, way)(box)
        elif way == "boot":
            await self.bring(box, running=False)
            if box.is_sure:
                await self.bring(box, running=True)
        elif way in ("create", "create-running", "remove"):
            await self.bring(box, running=box.dice.random() < 0.5)
            if box.exists and box.is_sure:
                await self.remove(box)
            if way != "remove" and box.exists is False:
                await self.create(box, start=True if way == "create-running" else None)

    async def bring(self, box: Box, *, running: bool) -> None:
        """To a state, by the shortest way."""
        if not box.is_sure:
            await self.look(box)
        if box.exists is False:
            await self.create(box, start=running)
        elif box.is_sure and box.running != running:
            await (self.start(box) if running else self.stop(box))

    async def create(self, box: Box, *, start: bool | None = None) -> None:
        start = box.dice.random() < 0.6 if start is None else start
        box.exists = box.running = None
        answer = await self._do("create", box, name=box.name, key=self.token(), start=start)
        if not answer.error:
            box.exists, box.running, box.sandbox_id = True, start, answer.result
            box.files, box.logs, box.agent_harmed = {}, {}, False

    async def start(self, box: Box) -> None:
        box.running = None
        if not (await self._do("start", box, name=box.name)).error:
            box.running = True

    async def stop(self, box: Box) -> None:
        box.running = None
        box.logs = dict.fromkeys(box.logs, False)
        if not (await self._do("stop", box, name=box.name)).error:
            box.running = False

    async def remove(self, box: Box) -> None:
        running, box.exists, box.running = box.running, None, None
        box.logs = dict.fromkeys(box.logs, False)
        answer = await self._do("remove", box, name=box.name, force=bool(running), fine_if_repeated="not_found")
        if not answer.error:
            box.exists = box.running = False
            box.files, box.logs = {}, {}

    async def rename(self, box: Box) -> None:
        box.also = f"{box.name.split('-')[0]}-{self._count + 1}"
        self.token()
        answer = await self._do("rename", box, name=box.name, new_name=box.also, fine_if_repeated="not_found")
        if not answer.error:
            box.name, box.also = box.also, ""

    async def write(self, box: Box) -> None:
        path, text = f"/home/user/f{box.dice.randrange(3)}", self.token() * box.dice.choice((1, 1, 400, 20_000))
        box.files.setdefault(path, {""}).add(text)
        if len(text) > MAX_ARGUMENT or box.dice.random() < 0.5:
            answer = await self._do("write", box, name=box.name, path=path, text=text)
            if answer.error:
                box.files[path].add(ANYTHING)  # cut short, it has written a part
        else:  # a command of the sandbox writes it, whole or not at all
            answer = await self._do("exec", box, name=box.name, script=f"echo -n {text} > {path}.new && mv {path}.new {path}")
            if not answer.error and answer.result[0]:
                if self._may_be_killed(box, answer):
                    return
                raise Violation(f"{box.name}: the command that writes {path} ended with {answer.result}")
        if not answer.error:
            box.files[path] = {text}

    async def read(self, box: Box) -> None:
        for path in sorted(box.files)[:1]:
            await self.check_file(box, path)

    async def check_file(self, box: Box, path: str) -> None:
        """Reads a file and compares."""
        answer = await self._do("read", box, name=box.name, path=path, fine="file_operation")
        if answer.error and answer.error != "file_operation":
            return
        if answer.error and "No such file" not in answer.message:
            if self.tolerant or box.agent_harmed:
                return
            raise Violation(f"{box.name}: {path} cannot be read: {answer.message}")
        text = "" if answer.error else answer.result
        if text not in box.files[path] and ANYTHING not in box.files[path]:
            raise Violation(
                f"{box.name}: {path} holds {text[:60]!r} ({len(text)}), acknowledged was {[each[:60] for each in box.files[path]]}"
            )
        if ANYTHING not in box.files[path]:
            box.files[path] = {text}

    async def exec(self, box: Box) -> None:
        token, code = self.token(), box.dice.randrange(3)
        answer = await self._do("exec", box, name=box.name, script=f"echo {token}; sleep 0.0{box.dice.randrange(5)}; exit {code}")
        if not answer.error and answer.result != [code, f"{token}\n"]:
            if self._may_be_killed(box, answer):
                return
            raise Violation(f"{box.name}: a command that prints {token} and exits with {code} came to {answer.result}")

    async def bulk(self, box: Box) -> None:
        """Much output, slowly enough to be cut short."""
        script = f"seq 1 {NUMBERS // 2}; sleep 0.0{box.dice.randrange(8)}; seq {NUMBERS // 2 + 1} {NUMBERS}"
        answer = await self._do("exec", box, name=box.name, script=script)
        if not answer.error and answer.result != [0, "".join(f"{number}\n" for number in range(1, NUMBERS + 1))]:
            if self._may_be_killed(box, answer):
                return
            raise Violation(
                f"{box.name}: output of {NUMBERS} numbers came as {len(answer.result[1])} characters, exit code {answer.result[0]}"
            )

    def _may_be_killed(self, box: Box, answer: Answer) -> bool:
        return bool(answer.result[0] == 137 and (box.agent_harmed or self.tolerant))

    async def detach(self, box: Box) -> None:
        script = f"i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); sleep 0.01; done"
        answer = await self._do("detach", box, name=box.name, script=script)
        if not answer.error:
            box.logs[answer.result] = not (self.tolerant or box.agent_harmed)

    async def run(self, _: Box | None = None) -> None:
        """A sandbox for one command."""
        token = self.token()
        answer = await self._do("run", None, script=f"echo {token}")
        if not answer.error and answer.result != [0, f"{token}\n"]:
            raise Violation(f"run: a command that prints {token} came to {answer.result}")

    async def gc(self) -> None:
        """Garbage collection, which must find nothing that anybody wants."""
        await self._do("gc", None)

    async def look(self, box: Box) -> None:
        """What was uncertain is what it turns out to be."""
        answer = await self._do("list", box)
        if answer.error:
            return
        rows = {name: (sandbox_id, status, reason) for sandbox_id, name, status, reason in answer.result}
        self.compare(box, rows)

    def compare(self, box: Box, rows: dict[str, tuple[str, str, str]]) -> None:
        """Settles what is uncertain of a box, or finds that it is not what it must be."""
        row = rows.get(box.name)
        if row is None and box.also and box.also in rows:
            box.name, row = box.also, rows[box.also]
        box.also = ""
        if row is None:
            if box.exists:
                raise Violation(f"sandbox {box.name} ({box.sandbox_id}) is gone")
            box.exists = box.running = False
            box.files, box.logs = {}, {}
            return
        sandbox_id, status, reason = row
        if box.exists is False:
            raise Violation(f"sandbox {box.name} was removed and is there: {row}")
        box.exists, box.sandbox_id = True, sandbox_id
        if status not in ("running", "stopped"):
            box.running = box.exists = None
            return
        if box.running is not None and box.running != (status == "running"):
            raise Violation(f"sandbox {box.name} ({sandbox_id}) must {'' if box.running else 'not '}run and is {status} ({reason!r})")
        box.running = status == "running"

    async def _do(self, operation: str, box: Box | None, *, fine: str = "", fine_if_repeated: str = "", **arguments: Any) -> Answer:
        """One operation; an error that nothing excuses is a violation."""
        self.operations += 1
        shown = {name: value if len(str(value)) < 80 else f"{str(value)[:40]}... ({len(str(value))})" for name, value in arguments.items()}
        at = len(self.told)
        self.told.append(f"{operation} {shown}")
        answer = await self._session.call(operation, **arguments)
        self.told[at] += (
            f" -> {answer.error or str(answer.result)[:60]}{' (repeated)' if answer.repeated else ''}{' ' + answer.message if answer.message else ''}"
        )
        if not answer.error or answer.error == fine:
            return answer
        if answer.repeated and answer.error == fine_if_repeated:
            return Answer(repeated=True)
        if answer.error.startswith("unexpected") and not (UNTYPED_IS_FINE and self.tolerant and "OSError" in answer.error):
            raise Violation(f"{operation} {shown}: {answer.error} {answer.message}")
        if self.tolerant or (box is not None and box.agent_harmed):
            if box is not None and box.running:
                box.running = None
            return answer
        raise Violation(f"{operation} {shown} failed{' (repeated)' if answer.repeated else ''}: {answer.error}: {answer.message}")
