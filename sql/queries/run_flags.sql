-- Why may this run's numbers not be compared?
SELECT idx, flag, detail
FROM run_flags
WHERE run_id = :run_id
ORDER BY idx
