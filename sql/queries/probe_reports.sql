-- What did the last probes of a site's nodes find, newest first?
SELECT site, node, probed_at, fingerprint, quick, seconds, verdict, defects, report, dag_run_id
FROM probe_reports
WHERE site = :site
ORDER BY probed_at DESC, node
LIMIT :limit
