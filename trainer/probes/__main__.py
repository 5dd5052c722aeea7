"""Entry point of ``python -m trainer.probes``."""

import sys

from trainer.probes.cli import main

sys.exit(main())
