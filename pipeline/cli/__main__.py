"""`python -m pipeline.cli` is the `vision` command."""

import sys

from pipeline.cli.main import main

sys.exit(main())
