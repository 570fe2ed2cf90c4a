"""`python -m pfljax`."""

import sys

from pfljax.cli import main

sys.exit(main())
