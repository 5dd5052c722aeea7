-- Which digest is which version of a data set, and what of a run's files is in the object store.

-- A version, once given, names the same digest for ever; a deleted one keeps its number.
CREATE TABLE dataset_versions (
    name TEXT NOT NULL,
    version BIGINT NOT NULL,               -- from 1
    digest TEXT NOT NULL,                  -- SHA-256 of the staged archive
    registered_at TEXT NOT NULL,
    deleted_at TEXT,                       -- NULL: staged
    PRIMARY KEY (name, version)
);

CREATE UNIQUE INDEX dataset_versions_by_digest ON dataset_versions (name, digest);

-- The flag of a run whose artifacts are incomplete: missing above 0.
CREATE TABLE run_artifacts (
    run_id TEXT NOT NULL PRIMARY KEY REFERENCES runs (run_id) ON DELETE CASCADE,
    stored BIGINT NOT NULL,                -- files in the object store
    missing BIGINT NOT NULL,               -- files that are not there
    size_bytes BIGINT NOT NULL,            -- of those stored
    detail TEXT NOT NULL                   -- why some are missing; empty when none is
);
