-- Which share of a profiled step did each class and each cause take, on all ranks and on each?
SELECT run_id, idx, rank, kind, name, value, low, high
FROM profile_shares
WHERE run_id = :run_id
ORDER BY idx
