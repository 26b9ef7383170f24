"""`python -m project`, in a checkout: the command line."""

import sys

from lightrail.project.cli import main

if __name__ == "__main__":
    sys.exit(main())
