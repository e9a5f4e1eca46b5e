"""What takes long to fail is left alone for a while; what fails at once, or answers, is not."""

import pytest

from fraud_pipelines.errors import OnlineStateTooShort, OnlineStoreUnavailable
from serving.patience import LONGEST_PAUSE_SECONDS, Patience


@pytest.mark.parametrize(
    ("took", "error", "pause"),
    [
        (0.2, OnlineStoreUnavailable, 0),
        (0.5, OnlineStoreUnavailable, 5),
        (0.5, ConnectionError, 5),
        (5.0, OnlineStoreUnavailable, LONGEST_PAUSE_SECONDS),
        (5.0, OnlineStateTooShort, 0),
    ],
)
def test_the_pause_is_ten_times_what_the_failure_took(took, error, pause):
    now = [100.0]
    patience = Patience("Store", lambda: now[0])
    with pytest.raises(error), patience.asking():
        now[0] += took
        raise error("no")
    assert patience.is_over is (pause > 0)
    now[0] += pause - 0.01
    assert patience.is_over is (pause > 0)
    now[0] += 0.02
    assert not patience.is_over


def test_the_log_is_told_now_and_then(caplog):
    now = [0.0]
    patience = Patience("Store", lambda: now[0])
    for _ in range(100):
        now[0] += 0.25
        patience.tell(OnlineStoreUnavailable("away"))
    assert caplog.messages == ["Store: away"] * 3  # at 0.25, 10.5 and 20.75 s
