"""``python -m advit`` is ``advit``."""

import sys

from advit.cli import main

if __name__ == "__main__":
    sys.exit(main())
