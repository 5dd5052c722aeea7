-- What the jobs behind a run used, as the cluster or the job's own wrapper measured it.
--
-- One row per attempt: a requeue keeps its job id, a resubmission gets another one. NULL means that
-- nobody measured it: without slurmdbd only times and nodes are known.

CREATE TABLE run_jobs (
    run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    attempt BIGINT NOT NULL,               -- place among the attempts of the run, from 0
    cluster TEXT NOT NULL,
    job_id BIGINT NOT NULL,
    state TEXT NOT NULL,                   -- in the cluster's word
    node_list TEXT NOT NULL,               -- in the cluster's compact spelling
    source TEXT NOT NULL,                  -- sacct or wrapper
    elapsed_s DOUBLE PRECISION,
    cpu_s DOUBLE PRECISION,                -- allocated
    cpu_used_s DOUBLE PRECISION,           -- user and system
    gpu_s DOUBLE PRECISION,                -- allocated
    max_rss_bytes BIGINT,
    energy_j DOUBLE PRECISION,
    PRIMARY KEY (run_id, attempt)
);
