"""A profile of each rank in a real Apptainer image: the host's nsys is bound in."""

from __future__ import annotations

import pytest

from tests.fixtures.apptainer import ENVIRONMENT
from tests.fixtures.profiles import MOUNT, assert_every_rank_is_profiled, profiled_spec
from tests.trainyard.apptainer.test_apptainer_runs import Run
from trainer.contract import Profiler

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("open_umask")]


def test_every_rank_in_the_image_leaves_a_profile(apptainer):
    spec = profiled_spec(Profiler.NSYS)
    run = Run(apptainer, "profiled", spec, apptainer={"binds": (ENVIRONMENT, MOUNT)})
    run.wait()
    assert_every_rank_is_profiled(run.paths, spec)
