-- Which runs does a study have, and what does each one show? One row per run.
SELECT run_id, study_id, config_id, spec_id, name, scaling, model, dataset, dataset_digest,
       precision, ranks, nodes, distributed, per_rank_batch, accumulation, global_batch,
       threads_per_rank, seed, repeat, status, phase, reason, sane, comparable, flags, flag_details,
       images_per_second, step_time_s, step_time_synthetic_s, step_time_no_sync_s, epoch_time_s,
       train_loss, train_accuracy, test_accuracy, peak_memory_bytes, window_cv, rank_imbalance,
       cpu_busy_cores, windows, train_wall_s, site, hostname, cpu_model, cores_usable, memory_bytes,
       gpu_name, gpu_count, backend, device, git_commit, git_dirty, python, torch, torchvision,
       numpy, cuda, nccl, started_at, ended_at, mlflow_url, artifacts_uri, parameter_hash, log_tail
FROM runs
WHERE study_id = :study_id
ORDER BY ranks, name, repeat, run_id
