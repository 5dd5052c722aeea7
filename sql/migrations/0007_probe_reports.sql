-- What the nodes of a site are and reach: one row per node and verification.

CREATE TABLE probe_reports (
    site TEXT NOT NULL,
    node TEXT NOT NULL,
    probed_at TEXT NOT NULL,
    fingerprint TEXT NOT NULL,             -- over the facts that change only when somebody changes them
    quick BOOLEAN NOT NULL,
    seconds DOUBLE PRECISION NOT NULL,     -- that the probes took
    verdict TEXT NOT NULL,                 -- passed, warning, failed
    defects TEXT NOT NULL,                 -- JSON: one line each, with what to do
    report TEXT NOT NULL,                  -- JSON: the ProbeReport
    dag_run_id TEXT NOT NULL,
    PRIMARY KEY (site, node, probed_at)
);

CREATE INDEX probe_reports_by_time ON probe_reports (site, probed_at);
