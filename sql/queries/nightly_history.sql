-- How did one metric of a suite develop, night by night, for every configuration?
-- Only comparable runs and finite values; the median over runs, with their number and range.
WITH points AS (
    SELECT s.study_id, s.created_at, r.config_id, r.name, r.ranks, r.hostname, r.git_commit,
           m.unit, m.value,
           ROW_NUMBER() OVER (PARTITION BY s.study_id, r.config_id ORDER BY m.value) AS place,
           COUNT(*) OVER (PARTITION BY s.study_id, r.config_id) AS runs_in_night
    FROM studies AS s
    JOIN runs AS r ON r.study_id = s.study_id
    JOIN run_metrics AS m ON m.run_id = r.run_id
    WHERE s.suite = :suite AND s.site = :site AND m.name = :metric AND r.comparable
      AND m.value BETWEEN -1e308 AND 1e308
      AND s.created_at >= :since
)
SELECT SUBSTR(created_at, 1, 10) AS night, study_id, created_at, config_id, MIN(name) AS name,
       MIN(ranks) AS ranks, MIN(hostname) AS hostname, MIN(git_commit) AS git_commit,
       MIN(unit) AS unit, COUNT(*) AS run_count, MIN(value) AS least,
       AVG(CASE WHEN place IN ((runs_in_night + 1) / 2, (runs_in_night + 2) / 2) THEN value END)
           AS median,
       MAX(value) AS largest
FROM points
GROUP BY study_id, created_at, config_id
ORDER BY created_at, study_id, MIN(ranks), MIN(name), config_id
