"""What must not take for ever."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

LIMIT_S = 30  # a hundred times what it takes; what looks at every character as often as there are others takes longer


@contextmanager
def must_end() -> Iterator[None]:
    """Fails what hangs, a regular expression included."""

    def ring(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
