"""Training in Docker containers: what a site says, how they are made, what their end means.

``site``, ``render``, ``wrapper`` and ``verdict`` are pure; ``engine`` speaks to a Docker engine,
``files`` to the run folder. None imports Airflow: ``hooks.docker`` has the connection.
"""
