-- When did the last study of a DAG end on each site, how, and with which runs?
WITH ended AS (
    SELECT s.study_id, s.site, s.status, s.plan, s.created_at, s.ended_at,
           ROW_NUMBER() OVER (PARTITION BY s.site ORDER BY s.created_at DESC, s.study_id) AS place
    FROM studies AS s
    WHERE s.status IN ('completed', 'failed')
      AND EXISTS (SELECT 1 FROM runs AS r WHERE r.study_id = s.study_id AND r.dag_id = :dag_id)
)
SELECT e.site, e.study_id, e.status, e.plan, e.created_at, e.ended_at,
       COUNT(r.run_id) AS stored_runs,
       COUNT(CASE WHEN r.status = 'completed' THEN 1 END) AS completed_runs,
       COUNT(CASE WHEN r.comparable THEN 1 END) AS comparable_runs,
       MAX(r.git_commit) AS git_commit, MAX(r.torch) AS torch
FROM ended AS e
JOIN runs AS r ON r.study_id = e.study_id
WHERE e.place = 1
GROUP BY e.site, e.study_id, e.status, e.plan, e.created_at, e.ended_at
ORDER BY e.site
