-- What the profiles of runs showed: class, shares with intervals, recoverable times, files.

CREATE TABLE profiles (
    run_id TEXT NOT NULL PRIMARY KEY REFERENCES runs (run_id) ON DELETE CASCADE,
    dag_id TEXT NOT NULL,
    dag_run_id TEXT NOT NULL,
    profiler TEXT NOT NULL,                -- torch, nsys; counters of ncu are joined to a trace
    mode TEXT NOT NULL,                    -- device: kernels of a GPU; host: phases without one
    ranks BIGINT NOT NULL,
    steps BIGINT NOT NULL,                 -- captured, per rank
    bound TEXT NOT NULL,                   -- input, communication, host, compute
    headline TEXT NOT NULL,
    slow_rank BIGINT,                      -- NULL: none
    controls_bound TEXT NOT NULL,          -- class by the controls; empty: they cannot tell
    step_ms DOUBLE PRECISION NOT NULL,     -- profiled step, mean; never a throughput
    step_ms_low DOUBLE PRECISION,
    step_ms_high DOUBLE PRECISION,
    outside DOUBLE PRECISION,              -- slowdown of the steps outside the captured part
    outside_low DOUBLE PRECISION,
    outside_high DOUBLE PRECISION,
    inside DOUBLE PRECISION,               -- slowdown of the captured steps
    inside_low DOUBLE PRECISION,
    inside_high DOUBLE PRECISION,
    pairs BIGINT NOT NULL,                 -- plain and profiled runs behind both
    suggestion_field TEXT NOT NULL,        -- field of the spec to change first; empty: none
    suggestion_from TEXT NOT NULL,
    suggestion_to TEXT NOT NULL,
    suggestion_why TEXT NOT NULL,
    before_run_id TEXT NOT NULL,           -- profile whose suggestion this one tries; empty: none
    speedup DOUBLE PRECISION,              -- plain throughput over that before the change
    speedup_low DOUBLE PRECISION,
    speedup_high DOUBLE PRECISION,
    report_path TEXT NOT NULL,
    report_uri TEXT NOT NULL,
    analysed_at TEXT NOT NULL
);

CREATE INDEX profiles_by_dag_run ON profiles (dag_id, dag_run_id);

CREATE TABLE profile_shares (
    run_id TEXT NOT NULL REFERENCES profiles (run_id) ON DELETE CASCADE,
    idx BIGINT NOT NULL,
    rank BIGINT,                           -- NULL: all ranks together
    kind TEXT NOT NULL,                    -- class: adds up to 1; fraction: docs/profiles.md
    name TEXT NOT NULL,
    value DOUBLE PRECISION,                -- of the step; NULL: cannot be told
    low DOUBLE PRECISION,
    high DOUBLE PRECISION,
    PRIMARY KEY (run_id, idx)
);

CREATE TABLE profile_recoverable (
    run_id TEXT NOT NULL REFERENCES profiles (run_id) ON DELETE CASCADE,
    idx BIGINT NOT NULL,
    name TEXT NOT NULL,
    ms DOUBLE PRECISION NOT NULL,          -- per step, an upper bound
    low DOUBLE PRECISION,
    high DOUBLE PRECISION,
    how TEXT NOT NULL,
    PRIMARY KEY (run_id, idx)
);

CREATE TABLE profile_files (
    run_id TEXT NOT NULL REFERENCES profiles (run_id) ON DELETE CASCADE,
    idx BIGINT NOT NULL,
    name TEXT NOT NULL,
    uri TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (run_id, idx)
);
