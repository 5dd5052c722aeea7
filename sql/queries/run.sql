-- What is known about this run?
SELECT * FROM runs WHERE run_id = :run_id
