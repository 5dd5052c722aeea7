-- Who had which DAG run since a moment, how, with what, and what came of it?
SELECT a.dag_id, a.dag_run_id, a.kind, a.triggered_by, a.user_name, a.conf, a.queued_at,
       a.started_at, a.ended_at, a.state, a.clears, COUNT(r.run_id) AS stored_runs
FROM dag_run_audit AS a
LEFT JOIN runs AS r ON r.dag_id = a.dag_id AND r.dag_run_id = a.dag_run_id
WHERE a.queued_at >= :since
GROUP BY a.dag_id, a.dag_run_id, a.kind, a.triggered_by, a.user_name, a.conf, a.queued_at,
         a.started_at, a.ended_at, a.state, a.clears
ORDER BY a.queued_at, a.dag_id, a.dag_run_id
