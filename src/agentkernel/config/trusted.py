"""The user's list of trusted project files: each by absolute path and digest, so that any change of a file ends its trust."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass

from agentkernel.config.places import check_authority
from agentkernel.config.privatefile import exclusive, write_private
from agentkernel.config.rawfile import read_raw
from agentkernel.errors import InvalidInput

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedFile:
    """One project file as it was when the user trusted it."""

    path: str
    digest: str


class TrustStore:
    """Reads and changes the list in the file `path` (mode 0600); changes are atomic and exclude each other."""

    def __init__(self, path: str) -> None:
        self._path = path

    def entries(self) -> tuple[TrustedFile, ...]:
        """All trusted files, by path.

        Raises:
            InvalidInput: the list is damaged, or somebody else can write it; nothing is trusted then.
        """
        raw = read_raw(self._path)
        if raw is None:
            return ()
        check_authority(raw, owners=frozenset({0, os.geteuid()}))
        try:
            data = json.loads(raw.content)
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']!r}")
            return tuple(TrustedFile(path=str(item["path"]), digest=str(item["digest"])) for item in data["files"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InvalidInput(f"{self._path} is damaged ({error})", hint="remove it, and trust your files again") from None

    def is_trusted(self, path: str, digest: str) -> bool:
        """Whether exactly this content at this path is trusted."""
        return TrustedFile(path=path, digest=digest) in self.entries()

    def add(self, path: str, digest: str) -> None:
        """Trusts this content at this path, in place of what was trusted there before."""
        self._change(lambda files: [*(file for file in files if file.path != path), TrustedFile(path=path, digest=digest)])

    def remove(self, path: str) -> bool:
        """Ends the trust in a path; False when there was none."""
        known = any(file.path == path for file in self.entries())
        self._change(lambda files: [file for file in files if file.path != path])
        return known

    def _change(self, edit: Callable[[list[TrustedFile]], list[TrustedFile]]) -> None:
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        with exclusive(self._path):
            files = sorted(edit(list(self.entries())), key=lambda file: file.path)
            said = [{"path": file.path, "digest": file.digest} for file in files]
            write_private(self._path, json.dumps({"format": FORMAT, "files": said}, indent=1) + "\n")
