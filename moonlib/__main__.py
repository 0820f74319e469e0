"""``python -m moonlib`` is the same as ``moonlib``."""

import sys

from moonlib.cli import main

sys.exit(main())
