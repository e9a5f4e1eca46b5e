"""How values are written: never blank."""

from datetime import datetime

import numpy as np
import pandas as pd
import pytest

from fraud_pipelines.compliance.blocks import NOT_AVAILABLE, as_text


@pytest.mark.parametrize(
    ("value", "style", "text"),
    [
        (1234567, "count", "1,234,567"),
        (0.012345, "share", "1.23 %"),
        (0.71234, "decimal", "0.7123"),
        (0.0000123456, "short", "1.23e-05"),
        (datetime(2026, 3, 31, 23, 59), "moment", "2026-03-31 23:59 UTC"),
        (pd.Timestamp("2026-03-01"), "month", "2026-03"),
        ("ab" * 32, "hash", "abababababab"),
        ("plain", "text", "plain"),
    ],
)
def test_values_by_style(value, style, text):
    assert as_text(value, style) == text


@pytest.mark.parametrize("style", ["count", "share", "decimal", "short", "day", "moment", "hash", "text"])
@pytest.mark.parametrize("value", [None, np.nan, pd.NaT])
def test_a_missing_value_is_said_not_left_blank(value, style):
    assert as_text(value, style) == NOT_AVAILABLE


def test_an_empty_text_is_not_available_too():
    assert as_text("", "text") == NOT_AVAILABLE
