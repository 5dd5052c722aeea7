"""``python -m trainyard.probing``."""

import sys

from trainyard.probing.cli import main

sys.exit(main())
