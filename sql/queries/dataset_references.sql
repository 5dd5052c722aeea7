-- Which studies and runs were measured on the archive with this digest?
SELECT 'study' AS kind, study_id AS run_id, created_at AS started_at
FROM studies
WHERE dataset_digest = :dataset_digest
UNION ALL
SELECT 'run' AS kind, run_id, started_at
FROM runs
WHERE dataset_digest = :dataset_digest
