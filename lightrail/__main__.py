"""`python -m lightrail`: the command line."""

import sys

from lightrail.project.cli import main

if __name__ == "__main__":
    sys.exit(main())
