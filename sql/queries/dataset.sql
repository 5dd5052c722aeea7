-- What is known of the archive with this digest?
SELECT *
FROM datasets
WHERE name = :name AND digest = :digest
