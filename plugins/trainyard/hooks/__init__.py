"""Airflow hooks and listeners."""
