-- How many stored runs ended how, for which reason, and when was the last of each?
SELECT site, status, reason, exit_code, COUNT(*) AS run_count, MAX(ended_at) AS last_ended_at
FROM runs
GROUP BY site, status, reason, exit_code
ORDER BY site, status, reason, exit_code
