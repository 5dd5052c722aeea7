"""Training in Docker containers: what a site says, how containers are made, what their end means.

``site``, ``render`` and ``verdict`` are pure; ``engine`` speaks to a Docker engine, ``files`` to the
run folder. No module imports Airflow: ``hooks.docker`` turns a connection into an ``Engine``.
"""
