-- Which versions of this data set are there, deleted ones included?
SELECT name, version, digest, registered_at, deleted_at
FROM dataset_versions
WHERE name = :name
ORDER BY version
