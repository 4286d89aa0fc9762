"""Lets `python -m eventstore.cli` do what the command `eventstore` does."""

from . import main

main()
