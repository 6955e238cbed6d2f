"""Run the command line by ``python -m captum_attattr.cli``."""

import sys

from captum_attattr.cli import main

sys.exit(main())
