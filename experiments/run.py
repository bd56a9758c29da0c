"""Runs `mamt train`."""

import sys

from mamt_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
