-- Which files belong to the profile of this run, where are they, and what are their digests?
SELECT run_id, idx, name, uri, size_bytes, sha256
FROM profile_files
WHERE run_id = :run_id
ORDER BY idx
