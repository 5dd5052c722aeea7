-- How long did every timed window of this run take?
SELECT idx, kind, steps, images, seconds, seconds_by_rank, foreign_load
FROM run_windows
WHERE run_id = :run_id
ORDER BY place
