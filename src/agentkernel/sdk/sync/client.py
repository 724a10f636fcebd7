"""The client, for threads: the twin of `sdk.aio.client`, whose docstrings tell more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Unpack

from agentkernel.abc import Kernel
from agentkernel.model.isolation import Fingerprint
from agentkernel.model.record import Event, KernelStatus
from agentkernel.model.status import Status
from agentkernel.sdk.aio.client import AsyncClient
from agentkernel.sdk.options import LastingOptions, SandboxOptions
from agentkernel.sdk.sync.images import Images
from agentkernel.sdk.sync.portal import Portal
from agentkernel.sdk.sync.sandbox import Sandbox


class Client:
    """Sandboxes through the daemon (started on demand), through one elsewhere, or with `local` by an engine in this process, whose
    sandboxes end with the client.

    Args:
        local: an engine in this process.
        socket: the daemon's socket, in place of AGENTKERNEL_SOCKET or the usual place.
        url: a daemon elsewhere, in place of the one that AGENTKERNEL_HOST names: `https://HOST[:PORT]`, `http://...` for a server
            (`agentkernel serve`), `unix:///PATH` for a socket.
        token: the server's; without it that of AGENTKERNEL_TOKEN or AGENTKERNEL_TOKEN_FILE, unless AGENTKERNEL_HOST names another server.
        kernel: a kernel made elsewhere, in place of all these, not used elsewhere; closed with the client.

    Any thread may use it, and everything made by it, also one whose own event loop runs (which then waits). A process that was forked
    makes its own: there every call raises Conflict. Raises what `AsyncClient` raises.
    """

    def __init__(
        self,
        *,
        local: bool = False,
        socket: str | None = None,
        url: str | None = None,
        token: str | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        self._async = AsyncClient(local=local, socket=socket, url=url, token=token, kernel=kernel)
        self._portal = Portal()

    @property
    def images(self) -> Images:
        """The images that sandboxes are made of."""
        return Images(self._portal, self._async.images)

    # -- sandboxes

    @contextmanager
    def sandbox(self, **options: Unpack[SandboxOptions]) -> Iterator[Sandbox]:
        """A running sandbox for one block, removed at its end: `with client.sandbox(memory="512MiB") as box`.

        Raises:
            Refused, NotTrusted, Unsupported, BackendUnavailable: policy or this host says no; nothing was done.
            UnknownKey, InvalidInput: an option is wrong.
            LaunchFailed: it could not be built; nothing is left of it.
            Busy: too much at once; nothing was done.
        """
        with self._portal.inside(self._async.sandbox(**options)) as sandbox:
            yield Sandbox(self._portal, sandbox)

    def create(self, **options: Unpack[LastingOptions]) -> Sandbox:
        """Makes a sandbox that lasts, running unless `start=False`; raises what `sandbox` raises, and Conflict for a name that is taken.

        A call that is cancelled leaves none.
        """
        return Sandbox(self._portal, self._portal.call(lambda: self._async.create(**options)))

    def get(self, name: str) -> Sandbox:
        """A sandbox by its name or id, running or not; raises NotFound, InvalidInput."""
        return Sandbox(self._portal, self._portal.call(lambda: self._async.get(name)))

    def list(
        self, *, labels: Mapping[str, str] | None = None, statuses: Sequence[Status | str] = (), backend: str = ""
    ) -> Sequence[Sandbox]:
        """The caller's sandboxes by id, those with all of the labels and one of the statuses (`running`, `stopped`, ...).

        Raises UnknownKey for a status that there is not, InvalidInput for what is no list or no mapping.
        """
        found = self._portal.call(lambda: self._async.list(labels=labels, statuses=statuses, backend=backend))
        return [Sandbox(self._portal, sandbox) for sandbox in found]

    def remove(self, name: str, *, force: bool = False) -> None:
        """Removes a sandbox and its files; raises NotFound, and Conflict when it runs, unless forced."""
        self._portal.call(lambda: self._async.remove(name, force=force))

    # -- the kernel

    def fingerprints(self) -> Sequence[Fingerprint]:
        """What every backend can do on this host, by trying it, which takes some seconds the first time."""
        return self._portal.call(self._async.fingerprints)

    def events(self, *, sandbox: str = "", kinds: Sequence[str] = (), since: float = 0.0, follow: bool = False) -> Iterator[Event]:
        """The audit trail, oldest first: of one sandbox, of some kinds (`exec.` are all that begin so), from a Unix time on.

        With `follow` it goes on with what is done from now on. Raises InvalidInput for what is no list or no time.
        """
        return self._portal.iterate(lambda: self._async.events(sandbox=sandbox, kinds=kinds, since=since, follow=follow))

    def collect_garbage(self, *, dry_run: bool = False) -> Sequence[str]:
        """Removes what has expired and what belongs to no sandbox; returns one line for each thing."""
        return self._portal.call(lambda: self._async.collect_garbage(dry_run=dry_run))

    def status(self) -> KernelStatus:
        """The engine at a glance: its version, how many sandboxes there are and run, `rss_bytes`, `started_at` in Unix seconds, ..."""
        return self._portal.call(self._async.status)

    def close(self) -> None:
        """Ends foreground commands of this client, and with `local` its sandboxes; all else lives on. Repeating it is fine."""
        self._portal.close(self._async.close)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()
