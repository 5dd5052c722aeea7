"""``Place``: which rank of how many this process is, as torchrun's environment says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.contract import RunSpec
from trainer.failures import BadInputError


@dataclass(kw_only=True, slots=True, frozen=True)
class Place:
    """Where one process stands among the ranks of a run."""

    rank: int = 0
    """Number among all ranks, from 0."""
    world: int = 1
    """Ranks in all."""
    local_rank: int = 0
    """Number among the ranks of this node, from 0; also the number of its GPU."""
    local_world: int = 1
    """Ranks on this node."""
    launched: bool = False
    """A launcher (torchrun) set the rendezvous address in the environment."""

    @property
    def first(self) -> bool:
        """This is the rank that writes the run's records."""
        return self.rank == 0

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Place:
        """Return the place torchrun's variables describe; without them, the only rank.

        Raises ``BadInputError`` when a variable is no whole number.
        """
        if "RANK" not in environ:
            return cls()

        def number(name: str, default: str) -> int:
            text = environ.get(name, default)
            if not text.isdecimal():
                raise BadInputError(
                    f"environment {name} = {text!r} must be a whole number; torchrun sets it"
                )
            return int(text)

        return cls(
            rank=number("RANK", "0"),
            world=number("WORLD_SIZE", "1"),
            local_rank=number("LOCAL_RANK", "0"),
            local_world=number("LOCAL_WORLD_SIZE", "1"),
            launched=True,
        )

    def check(self, spec: RunSpec) -> None:
        """Raise ``BadInputError`` when the launcher started other ranks than *spec* asks for."""
        if self.world != spec.ranks:
            raise BadInputError(
                f"the spec asks for ranks = {spec.ranks} and {self.world} were started. Start them "
                f"with: python -m torch.distributed.run --standalone --nproc-per-node "
                f"{spec.ranks} -m trainer SPEC RUN_DIR"
            )
        if self.local_world != spec.ranks_per_node:
            raise BadInputError(
                f"the spec asks for {spec.ranks_per_node} ranks on each of {spec.nodes} nodes and "
                f"{self.local_world} were started on this one"
            )
