-- Which cluster jobs ran this run, where, and what did each of them use?
SELECT attempt, cluster, job_id, state, node_list, source, elapsed_s, cpu_s, cpu_used_s, gpu_s,
       max_rss_bytes, energy_j
FROM run_jobs
WHERE run_id = :run_id
ORDER BY attempt
