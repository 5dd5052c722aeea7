"""``python -m trainyard.profile``."""

import sys

from trainyard.profile.cli import main

sys.exit(main())
