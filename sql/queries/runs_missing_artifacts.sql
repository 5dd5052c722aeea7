-- Which runs have files that are not in the object store?
SELECT a.run_id, a.stored, a.missing, a.size_bytes, a.detail, r.study_id, r.site, r.status
FROM run_artifacts a
JOIN runs r ON r.run_id = a.run_id
WHERE a.missing > 0
ORDER BY a.run_id
