-- How did loss and accuracy develop in this run?
SELECT idx, steps, images, seconds, train_loss, train_accuracy, test_accuracy
FROM run_epochs
WHERE run_id = :run_id
ORDER BY idx
