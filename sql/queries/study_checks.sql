-- Which sanity checks did a study's runs pass and fail?
SELECT c.run_id, c.idx, c.name, c.passed, c.detail
FROM runs AS r
JOIN run_checks AS c ON c.run_id = r.run_id
WHERE r.study_id = :study_id
ORDER BY c.run_id, c.idx
