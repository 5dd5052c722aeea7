-- Which is the newest study of a suite on a site that completed?
SELECT *
FROM studies
WHERE suite = :suite AND site = :site AND status = 'completed'
ORDER BY created_at DESC, study_id
LIMIT 1
