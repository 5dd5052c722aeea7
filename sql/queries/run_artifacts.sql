-- Which of this run's files are in the object store, and why are others not?
SELECT run_id, stored, missing, size_bytes, detail
FROM run_artifacts
WHERE run_id = :run_id
