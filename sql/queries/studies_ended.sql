-- Which studies ended last, and where are they recorded?
SELECT study_id, suite, site, status, created_at, ended_at, mlflow_run_id
FROM studies
WHERE status IN ('completed', 'failed')
ORDER BY created_at DESC, study_id
LIMIT :limit
