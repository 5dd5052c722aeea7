-- Who had Airflow run what: one row per DAG run, written when it starts and again when it ends.

CREATE TABLE dag_run_audit (
    dag_id TEXT NOT NULL,
    dag_run_id TEXT NOT NULL,
    kind TEXT NOT NULL,                    -- manual, scheduled, backfill, asset_triggered …
    triggered_by TEXT NOT NULL,            -- through what: ui, rest_api, cli, timetable, asset …
    user_name TEXT NOT NULL,               -- empty: nobody, Airflow itself
    conf TEXT NOT NULL,                    -- JSON: what the form was filled in with, secrets masked
    queued_at TEXT,
    started_at TEXT,
    ended_at TEXT,
    state TEXT NOT NULL,                   -- running, success, failed
    clears BIGINT NOT NULL,                -- how often the whole DAG run was cleared since
    PRIMARY KEY (dag_id, dag_run_id)
);

CREATE INDEX dag_run_audit_by_time ON dag_run_audit (queued_at);
