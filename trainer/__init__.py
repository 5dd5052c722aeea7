"""The trainer: one training run, alone, without Airflow."""
