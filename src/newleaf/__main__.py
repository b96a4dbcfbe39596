"""`python -m newleaf` is the `newleaf` command."""

import sys

from newleaf.cli.main import main

sys.exit(main())
