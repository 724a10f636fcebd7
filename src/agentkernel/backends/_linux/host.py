"""What a backend knows of its host: found out when it is first asked for, and then remembered."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from agentkernel.backends._linux.delegation import CgroupHost, find_host
from agentkernel.backends._linux.facts import HostFacts, read_facts
from agentkernel.backends._linux.kept import DataRoot, open_data_root
from agentkernel.backends._linux.state import StateRoot, open_state_root
from agentkernel.config.directories import data_directory, runtime_directory, state_directory


@dataclass(slots=True)
class Host:
    """Facts, groups and directories. `state_directory` overrides where sandboxes are recorded and their files lie (tests)."""

    backend: str
    state_directory: Path | None = None
    _facts: HostFacts | None = field(default=None, init=False)
    _cgroups: CgroupHost | None = field(default=None, init=False)
    _state: StateRoot | None = field(default=None, init=False)
    _data: DataRoot | None = field(default=None, init=False)
    _own: tuple[str, ...] = field(default=(), init=False)

    @property
    def facts(self) -> HostFacts:
        """What the host allows."""
        if self._facts is None:
            self._facts = read_facts()
        return self._facts

    @property
    def cgroups(self) -> CgroupHost:
        """Where groups can be made; finding out may move this process to another group."""
        if self._cgroups is None:
            self._cgroups = find_host()
        return self._cgroups

    @property
    def state(self) -> StateRoot:
        """Where sandboxes are recorded."""
        if self._state is None:
            uid = os.geteuid()
            base = self.state_directory or Path(state_directory(os.environ, uid))
            self._state = open_state_root(base, uid, self.backend)
        return self._state

    @property
    def data(self) -> DataRoot:
        """Where files are that outlast a stop, and storage on disk."""
        if self._data is None:
            self._data = open_data_root(self._data_base(), os.geteuid(), self.backend)
        return self._data

    @property
    def kept_ranges(self) -> Path:
        """Where ranges are leased whose files stay; it need not be there."""
        return self._data_base() / "ranges"

    @property
    def own_directories(self) -> tuple[str, ...]:
        """What no sandbox may see, as named and where it really is."""
        if not self._own:
            named = [str(self.state.path), str(self._data_base())]
            if self.state_directory is None:
                named.append(runtime_directory(os.environ, os.geteuid()))  # with the daemon's socket
            self._own = tuple(dict.fromkeys((*named, *map(os.path.realpath, named))))
        return self._own

    def _data_base(self) -> Path:
        return self.state_directory / "data" if self.state_directory else Path(data_directory(os.environ, os.geteuid()))
