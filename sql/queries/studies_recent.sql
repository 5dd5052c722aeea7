-- Which studies ran last, and how many of their runs completed and may be compared?
SELECT s.study_id, s.dag_run_id, s.title, s.suite, s.site, s.preset, s.dataset, s.status,
       s.created_at, s.ended_at, s.mlflow_url, s.report_uri, s.report_path,
       COUNT(r.run_id) AS stored_runs,
       COUNT(CASE WHEN r.status = 'completed' THEN 1 END) AS completed_runs,
       COUNT(CASE WHEN r.comparable THEN 1 END) AS comparable_runs
FROM studies AS s
LEFT JOIN runs AS r ON r.study_id = s.study_id
GROUP BY s.study_id, s.dag_run_id, s.title, s.suite, s.site, s.preset, s.dataset, s.status,
         s.created_at, s.ended_at, s.mlflow_url, s.report_uri, s.report_path
ORDER BY s.created_at DESC, s.study_id
LIMIT :limit
