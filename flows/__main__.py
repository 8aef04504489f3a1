"""`python -m flows`: the same as `skip-poc`."""

import sys

from flows.cli import main

sys.exit(main())
