import numpy as np
import pandas as pd
import pytest

from fraud_pipelines.errors import ContractBroken
from fraud_pipelines.features.vector import to_matrix

NAMES = ("b", "a")


def test_frames_and_vectors_give_the_same_bits_in_the_models_order():
    frame = pd.DataFrame({"a": pd.array([1, 2], dtype="int64"), "b": [0.1, None], "other": ["x", "y"]})
    vectors = [{"a": 1.0, "b": 0.1}, {"a": 2.0, "b": None, "other": 3.0}]
    expected = np.array([[0.1, 1.0], [np.nan, 2.0]], dtype=np.float32)
    np.testing.assert_array_equal(to_matrix(frame, NAMES), expected)
    np.testing.assert_array_equal(to_matrix(vectors, NAMES), expected)
    assert to_matrix(frame, NAMES).dtype == np.float32


def test_nullable_columns_of_pandas_become_nan():
    frame = pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [1.0, 2.0]})
    np.testing.assert_array_equal(to_matrix(frame, ("a",), np.float64), [[1.0], [np.nan]])


def test_doubles_stay_doubles_when_asked_for():
    assert to_matrix([{"a": 0.1}], ("a",), np.float64)[0, 0] == 0.1


@pytest.mark.parametrize("rows", [[], pd.DataFrame({"a": [], "b": []})])
def test_no_row_gives_an_empty_matrix_of_the_right_width(rows):
    assert to_matrix(rows, NAMES).shape == (0, 2)


@pytest.mark.parametrize("rows", [[{"a": 1.0}], pd.DataFrame({"a": [1.0]})])
def test_an_absent_feature_is_refused_by_name(rows):
    with pytest.raises(ContractBroken, match="Features b are absent"):
        to_matrix(rows, NAMES)
