-- What would a step of this profile save at most, cause by cause?
SELECT run_id, idx, name, ms, low, high, how
FROM profile_recoverable
WHERE run_id = :run_id
ORDER BY idx
