-- Which profiles did one Airflow DAG run make, what is each bound by, and did a change help?
SELECT run_id, profiler, mode, bound, headline, slow_rank, step_ms, outside, inside, pairs,
       suggestion_field, suggestion_from, suggestion_to, before_run_id, speedup, report_path,
       report_uri
FROM profiles
WHERE dag_id = :dag_id AND dag_run_id = :dag_run_id
ORDER BY before_run_id, run_id
