"""What every store promises, on the durable one and on the one in memory; and that the two never differ."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from unit.model_strategies import TEXT, values_of
from unit.store_samples import ROOT, SPEC, a_record, an_event

from agentkernel.abc import Store
from agentkernel.errors import AgentKernelError, Conflict, InvalidInput, NotFound
from agentkernel.model.record import Event, EventFilter, SandboxFilter, SandboxRecord
from agentkernel.model.status import Status
from agentkernel.store import sqlite
from agentkernel.store.memory import MemoryStore
from agentkernel.store.sqlite import CACHED_RECORDS, CACHED_ROOTS, SqliteStore

EXEC_ID = 2**64 - 5  # more than SQLite's integers hold


@pytest.fixture(params=["sqlite", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = SqliteStore(tmp_path / "store") if request.param == "sqlite" else MemoryStore()
    yield made
    made.close()


def test_the_identity_is_32_digits_and_no_other_stores(store: Store) -> None:
    assert len(store.identity) == 32
    assert int(store.identity, 16)
    assert store.identity != MemoryStore().identity


def test_a_sandbox_is_found_by_id_by_name_and_by_its_command(store: Store) -> None:
    record = a_record("box", ephemeral=True, exec_id=EXEC_ID, labels=(("a", "1"), ("b", "")))
    store.insert(record)
    assert store.get(record.sandbox_id) == record
    assert store.find("ada", "box") == record
    assert store.find_exec(EXEC_ID) == record


def test_what_is_not_there_is_none(store: Store) -> None:
    store.insert(a_record("box"))
    assert store.get("0" * 16) is None
    assert store.find("bob", "box") is None
    assert store.find_exec(7) is None
    assert store.find_exec(0) is None


def test_a_name_is_taken_once_per_owner(store: Store) -> None:
    store.insert(a_record("box"))
    with pytest.raises(Conflict, match="ada has a sandbox named 'box'"):
        store.insert(a_record("box"), an_event())
    assert not store.events(EventFilter())
    store.insert(a_record("box", owner="bob"))


def test_an_id_and_a_command_are_taken_once(store: Store) -> None:
    first = a_record(exec_id=9)
    store.insert(first)
    with pytest.raises(Conflict, match="the id"):
        store.insert(a_record("other", sandbox_id=first.sandbox_id))
    with pytest.raises(Conflict, match="the command 9"):
        store.insert(a_record(exec_id=9))
    store.delete(first.sandbox_id)
    store.insert(a_record(exec_id=9))


def test_an_update_replaces_the_whole_record(store: Store) -> None:
    record = a_record("box", labels=(("a", "1"),), exec_id=5)
    store.insert(record)
    changed = replace(
        record,
        name="chest",
        status=Status.RUNNING,
        labels=(("b", "2"),),
        started_at=5.0,
        expires_at=7.5,
        idle_s=0.5,
        reason="because",
        exec_id=6,
        spec=replace(SPEC, hostname="other", root=replace(ROOT, label="image")),
    )
    store.update(changed, an_event("sandbox.renamed"))
    assert store.get(record.sandbox_id) == changed
    assert store.find("ada", "box") is None
    assert store.find("ada", "chest") == changed
    assert (store.find_exec(5), store.find_exec(6)) == (None, changed)
    assert [event.kind for event in store.events(EventFilter())] == ["sandbox.renamed"]


def test_an_update_of_what_is_not_there_or_to_a_taken_name_changes_nothing(store: Store) -> None:
    first, second = a_record("first"), a_record("second")
    store.insert(first)
    with pytest.raises(NotFound):
        store.update(second, an_event())
    store.insert(second)
    with pytest.raises(Conflict):
        store.update(replace(second, name="first"), an_event())
    assert store.get(second.sandbox_id) == second
    assert not store.events(EventFilter())


def test_deleting_frees_the_name_and_repeating_it_is_fine(store: Store) -> None:
    record = a_record("box", labels=(("a", "1"),))
    store.insert(record)
    store.delete(record.sandbox_id, an_event("sandbox.removed"))
    store.delete(record.sandbox_id)
    assert store.get(record.sandbox_id) is None
    assert not store.sandboxes(wanted=SandboxFilter(labels=(("a", "1"),)))
    store.insert(a_record("box"))


def test_sandboxes_come_by_id_of_one_owner_or_of_all(store: Store) -> None:
    records = [a_record(sandbox_id=f"{number:016x}", owner=owner) for number, owner in ((3, "ada"), (1, "bob"), (2, "ada"))]
    for record in records:
        store.insert(record)
    assert [record.sandbox_id[-1] for record in store.sandboxes()] == ["1", "2", "3"]
    assert [record.sandbox_id[-1] for record in store.sandboxes("ada")] == ["2", "3"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (SandboxFilter(), "134"),
        (SandboxFilter(ephemeral=True), "1234"),
        (SandboxFilter(labels=(("team", "red"),)), "14"),
        (SandboxFilter(labels=(("team", "red"), ("tier", "one"))), "4"),
        (SandboxFilter(labels=(("team", "one"),)), ""),
        (SandboxFilter(statuses=(Status.RUNNING, Status.STARTING)), "3"),
        (SandboxFilter(backend="gvisor"), "4"),
        (SandboxFilter(after=f"{1:016x}"), "34"),
        (SandboxFilter(limit=2), "13"),
    ],
)
def test_filters_of_sandboxes(store: Store, wanted: SandboxFilter, found: str) -> None:
    store.insert(a_record(sandbox_id=f"{1:016x}", labels=(("team", "red"),)))
    store.insert(a_record(sandbox_id=f"{2:016x}", ephemeral=True))
    store.insert(a_record(sandbox_id=f"{3:016x}", status=Status.RUNNING))
    store.insert(a_record(sandbox_id=f"{4:016x}", backend="gvisor", labels=(("team", "red"), ("tier", "one"))))
    assert "".join(record.sandbox_id[-1] for record in store.sandboxes(wanted=wanted)) == found


def test_events_have_growing_ids_even_when_all_were_pruned(store: Store) -> None:
    first = store.append(an_event(details=(("argv", "caf\udce9"), ("exit", "0")), exec_id=EXEC_ID))
    assert store.events(EventFilter()) == [first]
    assert store.prune_events(before=2000.0, keep=100) == 1
    assert store.append(an_event()).event_id > first.event_id > 0


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (EventFilter(), "abcd"),
        (EventFilter(limit=2), "ab"),
        (EventFilter(since=3.0), "cd"),
        (EventFilter(sandbox="1" * 16), "ac"),
        (EventFilter(sandbox="box"), "c"),
        (EventFilter(kinds=("exec.",)), "bd"),
        (EventFilter(kinds=("exec",)), ""),
        (EventFilter(kinds=("exec.ended", "sandbox.created")), "ad"),
        (EventFilter(principal="bob"), "d"),
    ],
)
def test_filters_of_events(store: Store, wanted: EventFilter, found: str) -> None:
    store.append(an_event("sandbox.created", at=1.0, sandbox_id="1" * 16, details=(("is", "a"),)))
    store.append(an_event("exec.started", at=2.0, details=(("is", "b"),)))
    store.append(an_event("sandbox.removed", at=3.0, sandbox_id="1" * 16, sandbox="box", details=(("is", "c"),)))
    store.append(an_event("exec.ended", at=4.0, principal="bob", details=(("is", "d"),)))
    assert "".join(event.details[0][1] for event in store.events(wanted)) == found


def test_reading_on_after_an_event(store: Store) -> None:
    ids = [store.append(an_event()).event_id for _ in range(3)]
    assert [event.event_id for event in store.events(EventFilter(after=ids[0]))] == ids[1:]


def test_pruning_drops_what_is_old_and_what_is_too_many(store: Store) -> None:
    for at in (1.0, 9.0, 2.0, 10.0, 11.0):  # a clock that was set back
        store.append(an_event(at=at))
    assert store.prune_events(before=5.0, keep=10) == 2
    assert store.prune_events(before=5.0, keep=2) == 1
    assert [event.at for event in store.events(EventFilter())] == [10.0, 11.0]
    assert store.prune_events(before=0.0, keep=0) == 2


def test_much_is_pruned_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "PRUNED_AT_ONCE", 3)
    store = SqliteStore(tmp_path)
    ids = [store.append(an_event(at=float(number))).event_id for number in range(20)]
    assert [store.prune_events(before=0.0, keep=12) for _ in range(4)] == [3, 3, 2, 0]
    assert [store.prune_events(before=17.0, keep=12) for _ in range(4)] == [3, 3, 3, 0]
    assert [event.event_id for event in store.events(EventFilter())] == ids[17:]
    store.close()


def test_text_that_is_no_unicode_and_pages_of_no_length_are_refused(store: Store) -> None:
    for record in (a_record("half\ud800"), a_record(labels=(("a", "\udc80"),)), a_record(request_key="\udc80")):
        with pytest.raises(InvalidInput):
            store.insert(record)
    with pytest.raises(InvalidInput):
        store.append(an_event(sandbox="\udc80"))
    for limit in (0, 1001):
        with pytest.raises(InvalidInput):
            store.sandboxes(wanted=SandboxFilter(limit=limit))
        with pytest.raises(InvalidInput):
            store.events(EventFilter(limit=limit))


def test_more_sandboxes_and_roots_than_are_remembered(tmp_path: Path) -> None:
    records = [
        a_record(
            spec=replace(SPEC, root=replace(ROOT, label=str(number % (CACHED_ROOTS * 2)))), labels=(("n", str(number)),), ephemeral=True
        )
        for number in range(CACHED_RECORDS + CACHED_ROOTS * 2)
    ]
    store = SqliteStore(tmp_path)
    for record in records:
        store.insert(record)
    for record in records:
        assert store.get(record.sandbox_id) == record
        store.update(replace(record, reason="seen"))
    assert [replace(record, reason="") for record in store.sandboxes()] == sorted(records, key=lambda record: record.sandbox_id)
    store.close()


def test_roots_that_no_sandbox_has_are_dropped_and_come_back_when_needed(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    first, second = a_record(), a_record()
    store.insert(first)
    store.delete(first.sandbox_id)
    store.prune_events(0.0, 0)
    store.insert(second)
    store.close()
    again = SqliteStore(tmp_path)
    assert again.sandboxes() == [second]
    again.close()


IDS = st.sampled_from([f"{number:016x}" for number in range(4)])
RECORDS = values_of(
    SandboxRecord,
    sandbox_id=IDS,
    name=st.sampled_from(["box", "chest"]) | TEXT,
    owner=st.sampled_from(["ada", "bob"]),
    backend=TEXT,
    reason=TEXT,
    request_key=TEXT,
    labels=st.dictionaries(TEXT, TEXT, max_size=2).map(lambda found: tuple(sorted(found.items()))),
    exec_id=st.sampled_from([0, 0, 0, 1, EXEC_ID]),
    status=st.sampled_from([status for status in Status if status is not Status.UNAVAILABLE]),
)
KINDS = st.sampled_from(["exec.started", "exec.ended", "sandbox.created", "exec"])
EVENTS = values_of(
    Event,
    kind=KINDS,
    principal=st.sampled_from(["ada", "bob"]),
    event_id=st.just(0),
    sandbox_id=IDS,
    sandbox=TEXT,
    backend=TEXT,
    isolation=TEXT,
    outcome=TEXT,
    exec_id=st.integers(0, 2**64 - 1),
)


class Both(RuleBasedStateMachine):
    """The same calls on both stores; the durable one is closed and opened in between."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.durable = SqliteStore(Path(self.directory.name) / "store")
        self.model = MemoryStore()

    def teardown(self) -> None:
        if hasattr(self, "durable"):
            self.durable.close()
            self.directory.cleanup()

    def agree(self, call: str, *arguments: object) -> None:
        outcomes: list[object] = []
        for store in (self.durable, self.model):
            try:
                outcomes.append(getattr(store, call)(*arguments))
            except AgentKernelError as error:
                outcomes.append(type(error))
        assert outcomes[0] == outcomes[1]

    @rule(record=RECORDS, event=st.none() | EVENTS)
    def insert(self, record: SandboxRecord, event: Event | None) -> None:
        self.agree("insert", record, event)

    @rule(record=RECORDS, event=st.none() | EVENTS)
    def update(self, record: SandboxRecord, event: Event | None) -> None:
        self.agree("update", record, event)

    @rule(sandbox_id=IDS, event=st.none() | EVENTS)
    def delete(self, sandbox_id: str, event: Event | None) -> None:
        self.agree("delete", sandbox_id, event)

    @rule(event=EVENTS)
    def append(self, event: Event) -> None:
        self.agree("append", event)

    @rule(before=st.floats(allow_nan=False, allow_infinity=False), keep=st.integers(-1, 5))
    def prune(self, before: float, keep: int) -> None:
        self.agree("prune_events", before, keep)

    @rule(
        owner=st.sampled_from(["", "ada"]),
        wanted=values_of(SandboxFilter, after=IDS, limit=st.integers(0, 3), backend=TEXT, labels=st.just(())),
    )
    def look_for_sandboxes(self, owner: str, wanted: SandboxFilter) -> None:
        self.agree("sandboxes", owner, wanted)

    @rule(
        wanted=values_of(
            EventFilter,
            after=st.integers(0, 9),
            sandbox=IDS | st.just(""),
            kinds=st.tuples(KINDS | st.just("exec.")),
            principal=st.just(""),
            limit=st.integers(1, 3),
        )
    )
    def look_for_events(self, wanted: EventFilter) -> None:
        self.agree("events", wanted)

    @rule(owner=st.sampled_from(["ada", "bob"]), name=st.sampled_from(["box", "chest"]), exec_id=st.sampled_from([1, EXEC_ID]))
    def find(self, owner: str, name: str, exec_id: int) -> None:
        self.agree("find", owner, name)
        self.agree("find_exec", exec_id)

    @rule()
    def open_again(self) -> None:
        identity = self.durable.identity
        self.durable.close()
        self.durable = SqliteStore(Path(self.directory.name) / "store")
        assert self.durable.identity == identity

    @invariant()
    def hold_the_same(self) -> None:
        if hasattr(self, "durable"):
            self.agree("sandboxes")


def test_both_stores_do_the_same_whatever_is_called() -> None:
    run_state_machine_as_test(Both, settings=settings(max_examples=30, stateful_step_count=25, deadline=None, phases=[Phase.generate]))


@settings(max_examples=40, deadline=None)
@given(RECORDS)
def test_every_record_comes_back_from_the_disk(record: SandboxRecord) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = SqliteStore(Path(directory))
        store.insert(record)
        store.close()
        again = SqliteStore(Path(directory))
        assert again.get(record.sandbox_id) == record
        again.close()
