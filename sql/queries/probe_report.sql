-- What did the probes of one node find, in the last report whose time or fingerprint begins so?
SELECT site, node, probed_at, fingerprint, quick, seconds, verdict, defects, report, dag_run_id
FROM probe_reports
WHERE site = :site AND (probed_at LIKE :start OR fingerprint LIKE :start)
ORDER BY probed_at DESC, node
LIMIT 1
