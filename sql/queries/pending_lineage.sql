-- Which ended runs have no record in the tracking server yet?
SELECT run_id, study_id, status, ended_at
FROM runs
WHERE mlflow_run_id = '' AND status <> 'running'
ORDER BY COALESCE(ended_at, ''), run_id
