-- What did the profile of this run show, what did profiling cost, and where is its report?
SELECT run_id, dag_id, dag_run_id, profiler, mode, ranks, steps, bound, headline, slow_rank,
       controls_bound, step_ms, step_ms_low, step_ms_high, outside, outside_low, outside_high,
       inside, inside_low, inside_high, pairs, suggestion_field, suggestion_from, suggestion_to,
       suggestion_why, before_run_id, speedup, speedup_low, speedup_high, report_path, report_uri,
       analysed_at
FROM profiles
WHERE run_id = :run_id
