"""Where the command `eventstore` begins: quiet under Ctrl-C while its modules are being loaded.

It stands beside the packages because whatever is in one begins only when that is loaded, and that
takes most of the time there is before a command can look after an interrupt by itself.

Invariants: until all is loaded nothing was opened, so an interrupt ends the process on the spot,
as a command ends later: one line, exit code 130; what ignores interrupts goes on ignoring them.
"""

import os
import signal
import sys

INTERRUPTED = 130


def main() -> None:
    """Load the command line and run it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    from eventstore.cli import main as run  # noqa: PLC0415 - this is what takes its time

    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _end(*_: object) -> None:
    if sys.stderr is not None:  # closed when this process was started
        os.write(sys.stderr.fileno(), b"eventstore: interrupted\n")
    os._exit(INTERRUPTED)
