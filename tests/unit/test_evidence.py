import pandas as pd

from fraud_pipelines.evidence import hash_rows


def frame(**columns: list) -> pd.DataFrame:
    return pd.DataFrame(columns or {"a": [1, 2], "b": ["x", None], "c": [0.5, float("nan")]})


def test_equal_rows_have_equal_hashes():
    assert hash_rows(frame()) == hash_rows(frame().copy())


def test_storage_does_not_change_the_hash():
    text = pd.DataFrame({"b": ["x", "y"]})
    assert hash_rows(text.astype({"b": object})) == hash_rows(text)


def test_one_changed_value_order_or_name_changes_the_hash():
    original = hash_rows(frame())
    assert hash_rows(frame(a=[1, 3], b=["x", None], c=[0.5, float("nan")])) != original
    assert hash_rows(frame().iloc[::-1]) != original
    assert hash_rows(frame().rename(columns={"a": "A"})) != original


def test_an_empty_frame_is_known_by_its_columns():
    assert hash_rows(frame().iloc[:0]) == hash_rows(frame().iloc[:0])
    assert hash_rows(frame().iloc[:0]) != hash_rows(frame().iloc[:0][["a"]])
