"""What every test process needs."""

from __future__ import annotations

import signal

# A job that a script puts into the background ignores SIGINT, and so would all its children: tests of Ctrl-C need it.
signal.signal(signal.SIGINT, signal.default_int_handler)
