"""Airflow hooks: what turns a connection of Airflow into something Trainyard can use."""
