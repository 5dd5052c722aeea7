-- Which numbers did this run measure, in which units?
SELECT idx, name, value, unit
FROM run_metrics
WHERE run_id = :run_id
ORDER BY idx
