-- Who had this DAG run, and how?
SELECT dag_id, dag_run_id, kind, triggered_by, user_name, conf, queued_at, started_at, ended_at,
       state, clears
FROM dag_run_audit
WHERE dag_id = :dag_id AND dag_run_id = :dag_run_id
