"""The checkpoint's schema, by version; each step runs once, in a transaction with its own record."""

import sqlite3

from batchchat.crashpoint import crash_point
from batchchat.keep.rows import COLUMNS, checksum

APPLICATION_ID = 0x62636874  # "bcht": tells a checkpoint from any other SQLite file

_V1 = """
CREATE TABLE answers (
    key BLOB PRIMARY KEY,
    run INTEGER NOT NULL,
    latency_s REAL NOT NULL,
    attempts INTEGER NOT NULL,
    fields BLOB NOT NULL,  -- the Completion as JSON
    reply BLOB NOT NULL    -- the body as received, zlib
);
CREATE TABLE failures (
    key BLOB PRIMARY KEY,
    run INTEGER NOT NULL,
    is_transient INTEGER NOT NULL,
    latency_s REAL,
    attempts INTEGER NOT NULL,
    kind TEXT NOT NULL,
    message TEXT NOT NULL,
    status INTEGER,
    code TEXT,
    request_id TEXT
);
CREATE TABLE runs (
    run INTEGER PRIMARY KEY,
    started_at REAL NOT NULL,   -- unix seconds
    updated_at REAL NOT NULL,
    ended_at REAL,              -- null: still running, or killed
    end_reason TEXT,
    pid INTEGER NOT NULL,
    host TEXT NOT NULL,
    rows_total INTEGER NOT NULL,
    progress BLOB NOT NULL      -- the Progress as JSON
);
"""

_V2 = """
ALTER TABLE answers ADD COLUMN first_token_s REAL;
ALTER TABLE failures ADD COLUMN fields BLOB;  -- the Completion that was not good enough, as JSON
ALTER TABLE failures ADD COLUMN reply BLOB;   -- its body, zlib
CREATE TABLE media (
    path TEXT PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    digest BLOB NOT NULL,
    mime_type TEXT NOT NULL
);
"""

# A checksum is over the key and all other columns.
_V3 = """
ALTER TABLE answers ADD COLUMN checksum BLOB;
ALTER TABLE failures ADD COLUMN checksum BLOB;
ALTER TABLE runs ADD COLUMN checksum BLOB;
ALTER TABLE media ADD COLUMN checksum BLOB;
"""
WITH_CHECKSUMS = 3
"""The first version whose rows have checksums."""

_WITHOUT_CHECKSUMS = ("answers", "failures", "runs", "media")
"""The tables that the version before had."""

_GROUP = 64
"""Rows that are held at a time while their checksums are made."""

# From here on `answers.fields` and `failures.fields` are lists without the names of their fields.
_V4 = """
CREATE TABLE settled (
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,    -- empty: each row names its own
    fields BLOB NOT NULL,   -- the Settled as JSON
    checksum BLOB NOT NULL,
    PRIMARY KEY (endpoint, model)
);
"""

# A failure without a row's name has the checksum that it would have without the column. What `uses` has is compressed
# by zlib, which checks it. An output is named with the content that it had: two states of one file are known for as
# long as the newer one is being put in its place.
_V5 = """
ALTER TABLE failures ADD COLUMN row_name TEXT;
CREATE TABLE uses (
    run INTEGER NOT NULL,        -- the run whose output has them
    kind TEXT NOT NULL,          -- the table, answers or failures
    part INTEGER NOT NULL,       -- from 0, of equally many rowids each
    marks BLOB NOT NULL,         -- a bit for each rowid, zlib
    PRIMARY KEY (run, kind, part)
) WITHOUT ROWID;
CREATE TABLE segments (
    output TEXT NOT NULL,        -- the file that rows were appended to
    file BLOB NOT NULL,          -- the digest of its content then
    input BLOB NOT NULL,         -- the digest of the input that they are from
    first_row INTEGER NOT NULL,  -- where they stand in it, from 0; -1 where that is not known any more
    row_count INTEGER NOT NULL,
    checksum BLOB NOT NULL,
    PRIMARY KEY (output, file, input)
);
"""

MIGRATIONS = (_V1, _V2, _V3, _V4, _V5)
"""What brings a file from version n to n + 1; the version stands in SQLite's `user_version`."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring an open checkpoint to the newest version; `connection` is in autocommit mode.

    The caller has made sure that it is not newer than that. An error undoes the step that it comes from.
    """
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        # One script is one transaction: a kill in the middle leaves the version before it.
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {script}")
            if number == WITH_CHECKSUMS:
                _make_checksums(connection)
            crash_point("in-migration")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _make_checksums(connection: sqlite3.Connection) -> None:
    """Give every row its checksum, within the transaction that is open.

    Not by a function in SQL: SQLite swallows what is raised there, and a signal raises wherever it comes.
    """
    for table in _WITHOUT_CHECKSUMS:
        columns = ["NULL" if name == "row_name" else name for name in COLUMNS[table]]  # which came later
        select = f"SELECT rowid, {', '.join(columns[:-1])} FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT {_GROUP}"  # noqa: S608
        update = f"UPDATE {table} SET checksum = ? WHERE rowid = ?"  # noqa: S608
        last = -1
        while rows := connection.execute(select, (last,)).fetchall():
            connection.executemany(update, [(checksum(table, *row[1:]), row[0]) for row in rows])
            last = rows[-1][0]
