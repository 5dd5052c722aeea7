-- How did loss and accuracy develop, epoch by epoch, in a study's runs?
SELECT e.run_id, e.idx, e.steps, e.images, e.seconds, e.train_loss, e.train_accuracy,
       e.test_accuracy
FROM runs AS r
JOIN run_epochs AS e ON e.run_id = r.run_id
WHERE r.study_id = :study_id
ORDER BY e.run_id, e.idx
