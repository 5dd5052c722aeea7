-- Which training runs did one Airflow DAG run start, and how did each end?
SELECT run_id, study_id, dag_id, dag_run_id, task_id, map_index, try_number, name, status, phase,
       reason, sane, comparable, exit_code, submitted_at, started_at, ended_at, mlflow_url,
       artifacts_uri
FROM runs
WHERE dag_run_id = :dag_run_id AND dag_id = :dag_id
ORDER BY task_id, map_index, run_id
