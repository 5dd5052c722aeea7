"""A run's files on their way to the object store while it still runs. Free of Airflow.

Uploading needs credentials and takes time from whatever shares its cores, so it happens where the
run is watched, in threads of the triggerer, and never on the nodes that are measured
(docs/decisions/0013). ``poke`` is what a trigger calls; ``finish`` uploads what is left when the
run is over; ``restore`` brings the newest checkpoint to wherever the run goes on.
"""

from __future__ import annotations

from trainyard.streaming.background import poke
from trainyard.streaming.restore import restore, restore_lost
from trainyard.streaming.streamer import Streamed, Streamer, finish

__all__ = ["Streamed", "Streamer", "finish", "poke", "restore", "restore_lost"]
