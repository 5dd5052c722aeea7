"""Trainyard: distributed-training benchmarks as Airflow pipelines."""
