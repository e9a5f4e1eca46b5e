"""Patience with a store that hangs, so that it does not hold up every payment."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

LONGEST_PAUSE_SECONDS = 10.0


class Patience:
    """Says whether a store that failed should be asked again: what took a while to fail is left alone ten times as
    long, at most LONGEST_PAUSE_SECONDS. What fails at once costs nothing and is asked every time.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._asked_again_at = clock, 0.0

    @property
    def is_over(self) -> bool:
        """Whether the store is to be left alone now."""
        return self._clock() < self._asked_again_at

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around a question to the store; an exception means that it failed."""
        started = self._clock()
        try:
            yield
        except Exception:
            now = self._clock()
            self._asked_again_at = now + min(10 * (now - started), LONGEST_PAUSE_SECONDS)
            raise
