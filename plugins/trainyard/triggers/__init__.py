"""Airflow triggers: what waits for a run without holding a worker."""
