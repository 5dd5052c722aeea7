-- What the runs were given: staged data sets, and the state of the machine and the services.

CREATE TABLE datasets (
    name TEXT NOT NULL,
    digest TEXT NOT NULL,                  -- SHA-256 of the staged archive
    size_bytes BIGINT NOT NULL,
    source TEXT NOT NULL,
    licence TEXT NOT NULL,
    retrieved_at TEXT NOT NULL,
    bucket TEXT NOT NULL,
    object_key TEXT NOT NULL,
    manifest TEXT NOT NULL,                -- JSON: the whole manifest, with counts and quality checks
    PRIMARY KEY (name, digest)
);

CREATE INDEX datasets_by_time ON datasets (name, retrieved_at);

CREATE TABLE environment_checks (
    site TEXT NOT NULL,
    checked_at TEXT NOT NULL,              -- one moment for all checks of one verification
    idx BIGINT NOT NULL,
    name TEXT NOT NULL,
    measured TEXT NOT NULL,
    requirement TEXT NOT NULL,
    verdict TEXT NOT NULL,                 -- passed, warning, failed, skipped
    detail TEXT NOT NULL,
    dag_run_id TEXT NOT NULL,
    PRIMARY KEY (site, checked_at, name)
);
