-- How long did every timed window of a study's runs take, on the slowest rank and on each?
SELECT w.run_id, w.kind, w.idx, w.steps, w.images, w.seconds, w.seconds_by_rank, w.foreign_load
FROM runs AS r
JOIN run_windows AS w ON w.run_id = r.run_id
WHERE r.study_id = :study_id
ORDER BY w.run_id, w.kind, w.idx
