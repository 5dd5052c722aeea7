"""Airflow operators, their links, forms and the pieces DAGs are put together from."""
