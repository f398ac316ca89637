"""`python -m hobbit_export`: the same as the command hobbit-export."""

import sys

from hobbit_export.cli import main

if __name__ == "__main__":
    sys.exit(main())
