"""One rank of a measurement between processes: ``-m trainer.probes.rank BACKEND OUT``."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from trainer.probes.bench_group import measure_group, write_measured

_WAIT = timedelta(seconds=25)


def main(backend: str, out: Path, *, quick: bool) -> None:
    """Measure with the other ranks; the first one writes what was found."""
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = "cpu"
    if backend == "nccl":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    store = store_of(os.environ["PROBE_STORE"], ranks)
    torch.distributed.init_process_group(
        backend, store=store, rank=rank, world_size=ranks, timeout=_WAIT
    )
    doubt = os.environ.get("PROBE_DOUBT", "")
    made = measure_group(os.environ["PROBE_PREFIX"], quick=quick, device=device, doubt=doubt)
    if rank == 0:
        write_measured(made, out)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def store_of(where: str, ranks: int) -> Any:
    """Return the meeting place *where*: ``file:PATH`` on a node, ``tcp:HOST:PORT`` between them."""
    kind, _, rest = where.partition(":")
    if kind == "file":
        return torch.distributed.FileStore(rest, ranks)  # type: ignore[attr-defined]
    host, _, port = rest.rpartition(":")
    return torch.distributed.TCPStore(  # type: ignore[attr-defined]
        host, int(port), is_master=False, timeout=_WAIT
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), quick="quick" in sys.argv[3:])
