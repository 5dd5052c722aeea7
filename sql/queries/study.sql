-- What is this study, how far did it come and where is its report?
SELECT * FROM studies WHERE study_id = :study_id
