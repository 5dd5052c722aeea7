-- What did every comparable run of the studies that ended measure, study by study?
SELECT s.suite, s.site, s.study_id, s.created_at, r.run_id, r.config_id, r.name, r.ranks,
       r.hostname, r.cpu_model, r.gpu_name, m.unit, m.value
FROM studies AS s
JOIN runs AS r ON r.study_id = s.study_id
JOIN run_metrics AS m ON m.run_id = r.run_id
WHERE m.name = :metric AND r.comparable AND m.value BETWEEN -1e308 AND 1e308
  AND s.status IN ('completed', 'failed') AND s.created_at >= :since
ORDER BY s.created_at, s.study_id, r.config_id, r.run_id
