-- What did the last verification of a site find, check by check?
SELECT site, checked_at, idx, name, measured, requirement, verdict, detail, dag_run_id
FROM environment_checks
WHERE site = :site
  AND checked_at = (SELECT MAX(checked_at) FROM environment_checks WHERE site = :site)
ORDER BY idx
