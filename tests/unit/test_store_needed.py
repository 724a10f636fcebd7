"""Which images a durable store's sandboxes need, read beside the process that has the store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from unit.store_samples import a_record

from agentkernel.errors import StoreFailed
from agentkernel.model.spec import RootFilesystem, RootKind
from agentkernel.store.needed import images_needed
from agentkernel.store.sqlite import SqliteStore


def test_roots_of_sandboxes_are_told_while_they_are_there(tmp_path: Path) -> None:
    assert images_needed(tmp_path / "store") == frozenset()
    store = SqliteStore(tmp_path / "store")
    root = RootFilesystem(kind=RootKind.DIRECTORY, directory="/images/a", reference="docker.io/library/a:1", digest="sha256:a")
    record = a_record()
    record = replace(record, spec=replace(record.spec, root=root))
    store.insert(record)
    assert images_needed(tmp_path / "store") == frozenset()  # who has the store holds its images by locks
    store.close()
    assert images_needed(tmp_path / "store") == {"/images/a", "sha256:a"}
    store = SqliteStore(tmp_path / "store")
    store.delete(record.sandbox_id)
    store.close()
    assert images_needed(tmp_path / "store") == frozenset()


def test_a_store_that_cannot_be_read_is_no_empty_one(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreFailed):
        images_needed(tmp_path)
