"""Work on images that takes long: it goes on when who began it has gone, and tells how far it is to whoever asks."""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Final

from agentkernel.errors import AgentKernelError, Busy, NotFound
from agentkernel.model.image import ImageProgress, ImageRecord, ImageStage

if TYPE_CHECKING:
    from agentkernel.abc import Caller
    from agentkernel.abc_images import Report

MAX_RUNNING: Final = 16
REMEMBERED: Final = 64  # jobs that have ended, whose end may still be asked for
MAX_STEPS: Final = 10_000  # of one job, but for its end: a build may print without end
PAUSE_S: Final = 0.1  # between two steps about the same layer


class Job:
    """One piece of work, and the steps that it has taken."""

    def __init__(self, principal: str, clock: Callable[[], float]) -> None:
        self.principal = principal
        self.steps: list[ImageProgress] = []
        self.more = asyncio.Event()  # replaced with each step
        self.task: asyncio.Task[None] | None = None
        self._clock = clock
        self._told_at: dict[str, float] = {}

    @property
    def has_ended(self) -> bool:
        """Whether its last step was told."""
        return bool(self.steps) and self.steps[-1].is_last

    def report(self, step: ImageProgress) -> None:
        """Implements `abc_images.Report`: takes what is worth telling."""
        if self.has_ended or not self._is_news(step):
            return
        self.steps.append(step)
        self.more.set()
        self.more = asyncio.Event()

    def _is_news(self, step: ImageProgress) -> bool:
        if step.is_last:
            return True
        if len(self.steps) >= MAX_STEPS:
            return False
        if step.stage not in (ImageStage.DOWNLOADING, ImageStage.UNPACKING) or step.done_bytes == step.total_bytes:
            return True
        key, now = f"{step.stage} {step.item}", self._clock()
        if now - self._told_at.get(key, 0.0) < PAUSE_S:
            return False
        self._told_at[key] = now
        return True


class ImageJobs:
    """Those of one engine."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def __len__(self) -> int:
        """How many are under way."""
        return sum(not job.has_ended for job in self._jobs.values())

    def begin(self, caller: Caller, work: Callable[[Report], Awaitable[ImageRecord]]) -> str:
        """Starts `work` and returns its id, 16 hexadecimal digits; raises Busy."""
        if len(self) >= MAX_RUNNING:
            raise Busy(f"{MAX_RUNNING} images are being worked on", hint="wait until one is done")
        job = Job(caller.principal, self._clock)
        job_id = os.urandom(8).hex()
        self._jobs[job_id] = job
        job.task = asyncio.get_running_loop().create_task(self._run(job, work), name=f"image job {job_id}")
        ended = [each for each, other in self._jobs.items() if other.has_ended]
        for each in ended[: max(0, len(self._jobs) - REMEMBERED)]:
            del self._jobs[each]
        return job_id

    async def follow(self, caller: Caller, job_id: str, after: int = 0, *, follow: bool) -> AsyncIterator[ImageProgress]:
        """The steps behind the first `after` ones, with `follow` also those to come, to the last one. Raises NotFound."""
        job = self._jobs.get(job_id)
        if job is None or ("admin" not in caller.scopes and job.principal != caller.principal):
            raise NotFound(f"there is no work {job_id!r} on an image", hint="it may have been begun by an earlier daemon: begin it again")
        told = max(0, after)
        while True:
            more = job.more
            for step in job.steps[told:]:
                yield step
                told += 1
            if not follow or (job.has_ended and told >= len(job.steps)):
                return
            if told >= len(job.steps):
                await more.wait()

    async def close(self) -> None:
        """Breaks off what is under way: what was fetched of an image stays, and the next time goes on with it."""
        jobs = [job for job in self._jobs.values() if not job.has_ended]
        tasks = [job.task for job in jobs if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for job in jobs:
            text = "it was broken off: the engine ends"
            job.report(ImageProgress(stage=ImageStage.FAILED, error_code="image_failed", error=text, hint="begin it again: it goes on"))

    async def _run(self, job: Job, work: Callable[[Report], Awaitable[ImageRecord]]) -> None:
        try:
            image = await work(job.report)
        except AgentKernelError as error:
            job.report(ImageProgress(stage=ImageStage.FAILED, error_code=error.code, error=error.message, hint=error.hint))
        except Exception as error:
            job.report(ImageProgress(stage=ImageStage.FAILED, error_code="error", error=f"it failed: {error!r}"))
            raise
        else:
            job.report(ImageProgress(stage=ImageStage.DONE, image=image))
