-- Which sanity checks did this run pass and fail?
SELECT idx, name, passed, detail
FROM run_checks
WHERE run_id = :run_id
ORDER BY idx
