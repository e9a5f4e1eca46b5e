"""How often the interpreter turns from one thread to another, and looks for cycles among young objects.

A thread that computes lets another one in after the interpreter's switch interval. By itself that is 5 ms, the time of
a whole decision; but each turn takes some microseconds, and cools the caches of both. Cycles are looked for whenever
there are so many more objects than before: a batch has as many, none of them in a cycle. So the pace is that of single
payments, but while none come.
"""

import gc
import sys

SWITCH_SECONDS, RELAXED_SWITCH_SECONDS = 0.0001, 0.005
# The relaxed ones are more than the batches hold that are decided at one time.
YOUNG_OBJECTS, RELAXED_YOUNG_OBJECTS = 10_000, 250_000
_YOUNG_COLLECTIONS, _NEVER = 20, 1_000_000


def hurry() -> None:
    """For single payments: whoever computes gives way at once, and no collection takes long."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(YOUNG_OBJECTS, _YOUNG_COLLECTIONS, _NEVER)


def relax() -> None:
    """For batches alone."""
    sys.setswitchinterval(RELAXED_SWITCH_SECONDS)
    gc.set_threshold(RELAXED_YOUNG_OBJECTS, _YOUNG_COLLECTIONS, _NEVER)
