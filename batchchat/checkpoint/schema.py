"""The checkpoint's schema, by version; each step runs once, in a transaction with its own record."""

import sqlite3

from batchchat.crash_points import crash_point

APPLICATION_ID = 0x6263686B  # "bchk": tells a checkpoint from any other SQLite file
OLDER_APPLICATION_ID = 0x62636874  # "bcht", of development versions with another schema

# A checksum is over the key and all other columns. What `uses` has is compressed by zlib, which checks it. An output is
# named with the content that it had: two states of one file are known for as long as the newer one is being put in its
# place.
_V1 = """
CREATE TABLE answers (
    key BLOB PRIMARY KEY,
    run INTEGER NOT NULL,
    latency_s REAL NOT NULL,
    attempts INTEGER NOT NULL,
    fields BLOB NOT NULL,        -- the Completion as a JSON list
    reply BLOB NOT NULL,         -- the body as received, zlib
    first_token_s REAL,
    checksum BLOB NOT NULL
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
    request_id TEXT,
    fields BLOB,                 -- the Completion that was not good enough, as a JSON list
    reply BLOB,                  -- its body, zlib
    row_name TEXT,
    checksum BLOB NOT NULL
);
CREATE TABLE runs (
    run INTEGER PRIMARY KEY,
    started_at REAL NOT NULL,    -- unix seconds
    updated_at REAL NOT NULL,
    ended_at REAL,               -- null: still running, or killed
    end_reason TEXT,
    pid INTEGER NOT NULL,
    host TEXT NOT NULL,
    rows_total INTEGER NOT NULL,
    progress BLOB NOT NULL,      -- the Progress as JSON
    checksum BLOB NOT NULL
);
CREATE TABLE media (
    path TEXT PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    digest BLOB NOT NULL,
    mime_type TEXT NOT NULL,
    checksum BLOB NOT NULL
);
CREATE TABLE settled (
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,         -- empty: each row names its own
    fields BLOB NOT NULL,        -- the Settled as JSON
    checksum BLOB NOT NULL,
    PRIMARY KEY (endpoint, model)
);
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

MIGRATIONS = (_V1,)
"""The scripts from version n to n + 1; the version stands in SQLite's `user_version`.

A released script never changes: what is new is one more script.
"""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring an open checkpoint to the newest version; `connection` is in autocommit mode.

    The caller has made sure that it is not newer than that. An error undoes the step that it comes from.
    """
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        # One script is one transaction: a kill in the middle leaves the version before it.
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {script}")
            crash_point("in-migration")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
