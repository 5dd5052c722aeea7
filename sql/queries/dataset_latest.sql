-- Which archive of a data set was staged last?
SELECT *
FROM datasets
WHERE name = :name
ORDER BY retrieved_at DESC, digest
LIMIT 1
