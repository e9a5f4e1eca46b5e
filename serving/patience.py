"""Patience with a store that hangs, so that it does not hold up every payment."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fraud_pipelines.errors import PermanentError

LONGEST_PAUSE_SECONDS = 10.0
# What fails faster than this costs little and is asked every time.
SLOW_SECONDS = 0.25
TOLD_EVERY_SECONDS = 10.0

logger = logging.getLogger("bentoml.fraud_scorer")


class Patience:
    """Says whether a store that failed should be asked again: what took a while to fail is left alone ten times as
    long, at most LONGEST_PAUSE_SECONDS. A PermanentError is an answer, and no failure.

    Args:
        name: of the store, for the log, which is told now and then, not for each payment.
        clock: seconds that never go back.
    """

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self._name, self._clock = name, clock
        self._asked_again_at, self._told_at = 0.0, -math.inf

    @property
    def is_over(self) -> bool:
        """Whether the store is to be left alone now."""
        return self._clock() < self._asked_again_at

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around a question to the store; any other exception than a PermanentError means that it failed."""
        started = self._clock()
        try:
            yield
        except PermanentError:
            raise
        except Exception:
            now = self._clock()
            if now - started > SLOW_SECONDS:
                self._asked_again_at = now + min(10 * (now - started), LONGEST_PAUSE_SECONDS)
            raise

    def tell(self, error: Exception) -> None:
        """Log what is wrong, unless that was done a moment ago."""
        now = self._clock()
        if now - self._told_at > TOLD_EVERY_SECONDS:
            self._told_at = now
            logger.warning("%s: %s", self._name, error)
