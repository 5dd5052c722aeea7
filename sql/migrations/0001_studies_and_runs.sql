-- Studies and the training runs in them.
--
-- Written once for SQLite and PostgreSQL. Types: TEXT, BIGINT, DOUBLE PRECISION and BOOLEAN only, and
-- a column name has one type in the whole schema, since SQLite forgets what type a value had.
-- Moments are text of one fixed width, UTC: 2026-11-22T02:00:00.000000+00:00, so they sort as they are.

CREATE TABLE studies (
    study_id TEXT NOT NULL PRIMARY KEY,
    suite TEXT NOT NULL,
    site TEXT NOT NULL,
    dag_run_id TEXT NOT NULL,
    title TEXT NOT NULL,
    preset TEXT NOT NULL,
    dataset TEXT NOT NULL,
    dataset_digest TEXT NOT NULL,
    repeats BIGINT NOT NULL,
    order_seed BIGINT NOT NULL,
    plan TEXT NOT NULL,                    -- JSON: the planned runs in the order they were drawn
    status TEXT NOT NULL,
    created_at TEXT NOT NULL,
    ended_at TEXT,
    mlflow_experiment_id TEXT NOT NULL,
    mlflow_run_id TEXT NOT NULL,
    mlflow_url TEXT NOT NULL,
    report_uri TEXT NOT NULL,
    report_path TEXT NOT NULL,
    note TEXT NOT NULL
);

CREATE INDEX studies_by_suite ON studies (suite, site, created_at);

-- One row per training run. Spec columns, headline metrics and provenance are copied out of the
-- records so that a study of 10,000 runs is one scan of one table; `spec` and `result` hold what
-- is not a column, as the records' own JSON, so that a row gives back the records exactly.
CREATE TABLE runs (
    run_id TEXT NOT NULL PRIMARY KEY,
    study_id TEXT REFERENCES studies (study_id),   -- NULL: a run of its own
    site TEXT NOT NULL,
    launcher TEXT NOT NULL,
    suite TEXT NOT NULL,
    status TEXT NOT NULL,                  -- running, lost, failed, cancelled, completed
    precedence BIGINT NOT NULL,            -- how much the row knows; see docs/results.md
    phase TEXT NOT NULL,
    reason TEXT NOT NULL,
    log_tail TEXT NOT NULL,
    exit_code BIGINT,
    repeat BIGINT NOT NULL,
    -- what ran
    spec TEXT NOT NULL,
    spec_id TEXT NOT NULL,
    config_id TEXT NOT NULL,
    name TEXT NOT NULL,
    scaling TEXT NOT NULL,
    model TEXT NOT NULL,
    dataset TEXT NOT NULL,
    dataset_digest TEXT NOT NULL,
    precision TEXT NOT NULL,
    ranks BIGINT NOT NULL,
    nodes BIGINT NOT NULL,
    distributed BOOLEAN NOT NULL,
    per_rank_batch BIGINT NOT NULL,
    accumulation BIGINT NOT NULL,
    global_batch BIGINT NOT NULL,
    threads_per_rank BIGINT NOT NULL,
    seed BIGINT NOT NULL,
    -- what happened
    result TEXT,                           -- NULL: the run left none
    sane BOOLEAN NOT NULL,
    comparable BOOLEAN NOT NULL,
    flags TEXT NOT NULL,                   -- JSON list, also in run_flags
    flag_details TEXT NOT NULL,            -- JSON list, also in run_flags
    images_per_second DOUBLE PRECISION,
    step_time_s DOUBLE PRECISION,
    step_time_synthetic_s DOUBLE PRECISION,
    step_time_no_sync_s DOUBLE PRECISION,
    epoch_time_s DOUBLE PRECISION,
    train_loss DOUBLE PRECISION,
    train_accuracy DOUBLE PRECISION,
    test_accuracy DOUBLE PRECISION,
    peak_memory_bytes DOUBLE PRECISION,
    window_cv DOUBLE PRECISION,
    rank_imbalance DOUBLE PRECISION,
    cpu_busy_cores DOUBLE PRECISION,
    train_wall_s DOUBLE PRECISION,
    windows BIGINT NOT NULL,               -- timed windows of real training steps
    parameter_hash TEXT NOT NULL,
    -- where, with what
    hostname TEXT NOT NULL,
    cpu_model TEXT NOT NULL,
    cores_usable BIGINT,
    memory_bytes BIGINT,
    gpu_name TEXT NOT NULL,
    gpu_count BIGINT NOT NULL,
    backend TEXT NOT NULL,
    device TEXT NOT NULL,
    git_commit TEXT NOT NULL,
    git_dirty BOOLEAN,                     -- NULL: unknown, the run left no result
    python TEXT NOT NULL,
    torch TEXT NOT NULL,
    torchvision TEXT NOT NULL,
    numpy TEXT NOT NULL,
    cuda TEXT NOT NULL,
    nccl TEXT NOT NULL,
    -- when, started by what
    started_at TEXT,
    submitted_at TEXT,
    ended_at TEXT,
    dag_id TEXT NOT NULL,
    dag_run_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    map_index BIGINT NOT NULL,
    try_number BIGINT NOT NULL,
    -- where the rest is
    mlflow_run_id TEXT NOT NULL,
    mlflow_url TEXT NOT NULL,
    artifacts_uri TEXT NOT NULL
);

CREATE INDEX runs_by_study ON runs (study_id);
CREATE INDEX runs_by_dag_run ON runs (dag_run_id, dag_id);
CREATE INDEX runs_by_config ON runs (config_id, started_at);

CREATE TABLE run_metrics (
    run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    idx BIGINT NOT NULL,
    name TEXT NOT NULL,
    value DOUBLE PRECISION NOT NULL,
    unit TEXT NOT NULL,
    PRIMARY KEY (run_id, name)
);

CREATE TABLE run_windows (
    run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    place BIGINT NOT NULL,                 -- order in which the windows were timed
    kind TEXT NOT NULL,
    idx BIGINT NOT NULL,                   -- place among the windows of its kind
    steps BIGINT NOT NULL,
    images BIGINT NOT NULL,
    seconds DOUBLE PRECISION NOT NULL,     -- the slowest rank's
    seconds_by_rank TEXT NOT NULL,         -- JSON list, in rank order
    foreign_load DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (run_id, kind, idx)
);

CREATE TABLE run_epochs (
    run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    idx BIGINT NOT NULL,
    steps BIGINT NOT NULL,
    images BIGINT NOT NULL,
    seconds DOUBLE PRECISION NOT NULL,
    train_loss DOUBLE PRECISION NOT NULL,
    train_accuracy DOUBLE PRECISION NOT NULL,
    test_accuracy DOUBLE PRECISION,
    PRIMARY KEY (run_id, idx)
);

CREATE TABLE run_flags (
    run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    idx BIGINT NOT NULL,
    flag TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (run_id, idx)
);

CREATE TABLE run_checks (
    run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    idx BIGINT NOT NULL,
    name TEXT NOT NULL,
    passed BOOLEAN NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (run_id, idx)
);
