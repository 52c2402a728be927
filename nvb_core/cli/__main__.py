"""`python -m nvb_core.cli`, also under `accelerate launch -m`."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
