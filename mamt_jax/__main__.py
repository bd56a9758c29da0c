"""Entry point of `python -m mamt_jax`, which runs the command `mamt`."""

import sys

from mamt_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
