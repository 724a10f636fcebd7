"""The tables, as the steps that lead to them. A step that a release has had is never changed: a later one follows it."""

from __future__ import annotations

import sqlite3

APPLICATION_ID = 0x414B5354  # "AKST", so that no other program's database is taken for ours

# One entry per version, from 1; each is a list of statements.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
        # Most of a specification is its root, and nearly all sandboxes have the same: a root is written once, under its digest.
        "CREATE TABLE roots (digest TEXT PRIMARY KEY, root TEXT NOT NULL) STRICT",
        """CREATE TABLE sandboxes (
            sandbox_id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            owner TEXT NOT NULL,
            status TEXT NOT NULL,
            backend TEXT NOT NULL,
            isolation TEXT NOT NULL,
            root TEXT NOT NULL REFERENCES roots (digest),
            spec TEXT NOT NULL,
            created_at REAL NOT NULL,
            ephemeral INTEGER NOT NULL,
            exec_id INTEGER,
            started_at REAL,
            used_at REAL NOT NULL,
            expires_at REAL,
            idle_s REAL,
            reason TEXT NOT NULL,
            request_key TEXT NOT NULL,
            UNIQUE (owner, name)
        ) STRICT""",
        "CREATE UNIQUE INDEX sandboxes_by_exec ON sandboxes (exec_id) WHERE exec_id IS NOT NULL",
        """CREATE TABLE labels (
            sandbox_id TEXT NOT NULL REFERENCES sandboxes (sandbox_id) ON DELETE CASCADE,
            key TEXT NOT NULL,
            value TEXT NOT NULL,
            PRIMARY KEY (sandbox_id, key)
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX labels_by_value ON labels (key, value, sandbox_id)",
        # AUTOINCREMENT: ids go on growing when all events have been pruned, for someone may be reading on from the last one.
        """CREATE TABLE events (
            event_id INTEGER PRIMARY KEY AUTOINCREMENT,
            kind TEXT NOT NULL,
            at REAL NOT NULL,
            principal TEXT NOT NULL,
            sandbox_id TEXT NOT NULL,
            sandbox TEXT NOT NULL,
            backend TEXT NOT NULL,
            isolation TEXT NOT NULL,
            outcome TEXT NOT NULL,
            exec_id INTEGER,
            details TEXT NOT NULL
        ) STRICT""",
        "CREATE INDEX events_by_time ON events (at)",
        "CREATE INDEX events_by_sandbox ON events (sandbox_id, event_id)",
        "CREATE INDEX events_by_name ON events (sandbox, event_id)",
    ),
    ("ALTER TABLE sandboxes ADD COLUMN published TEXT NOT NULL DEFAULT '[]'",),
    ("ALTER TABLE sandboxes ADD COLUMN visited INTEGER NOT NULL DEFAULT 0",),
)
NEWEST = len(MIGRATIONS)


def version(connection: sqlite3.Connection) -> int:
    """The version of the tables that are there; 0 for an empty database."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection) -> None:
    """Takes the tables to the newest version, in the transaction that the caller has begun."""
    for number in range(version(connection), NEWEST):
        for statement in MIGRATIONS[number]:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {NEWEST}")
