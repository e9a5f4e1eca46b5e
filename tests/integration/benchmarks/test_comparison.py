import pyarrow as pa
import pytest

from benchmarks.comparison import TOLERANCE, Comparison, tolerances
from benchmarks.features import exponent
from fraud_pipelines.features.spec import load_spec


def table(**columns):
    """Three transactions with an exact feature, a count and one that has a tolerance."""
    values = {"exact": [1.5, None, 0.1], "count": [1, 2, 3], "km": [10.0, None, 0.0]} | columns
    types = {"exact": pa.float64(), "count": pa.int64(), "km": pa.float64()}
    identifiers = pa.array(columns.get("transaction_id", ["a", "b", "c"]))
    return pa.table(
        {"transaction_id": identifiers, **{name: pa.array(values[name], type_) for name, type_ in types.items()}}
    )


def compared(one, other):
    found = Comparison(("exact", "count", "km"), {"km": TOLERANCE})
    found.add(one, other)
    return found


def test_the_same_rows_in_another_order_do_not_differ():
    found = compared(table(), table().take(pa.array([2, 0, 1])))
    assert (found.rows, found.mismatches, found.report()["cells"]) == (3, 0, 9)
    assert found.report()["cells_with_a_value"] == 7  # two of the nine are null
    assert found.largest == {"km": 0.0}


@pytest.mark.parametrize(
    ("changed", "feature"),
    [
        ({"exact": [1.5, None, 0.1 + 2**-54]}, "exact"),
        ({"exact": [1.5, 0.0, 0.1]}, "exact"),
        ({"exact": [None, None, 0.1]}, "exact"),
        ({"exact": [1.5, float("nan"), 0.1]}, "exact"),
        ({"count": [1, 2, 4]}, "count"),
        ({"km": [10.0 + 2e-8, None, 0.0]}, "km"),
        ({"km": [10.0, 0.0, 0.0]}, "km"),
        ({"km": [10.0, None, 1e-300]}, "km"),
    ],
)
def test_one_differing_cell_is_found(changed, feature):
    for found in (compared(table(), table(**changed)), compared(table(**changed), table())):
        assert found.mismatches == 1
        assert found.report()["differing_cells"] == {feature: 1}


def test_a_difference_within_the_tolerance_is_shown_and_does_not_count():
    found = compared(table(), table(km=[10.0 + 5e-9, None, 0.0]))
    assert found.mismatches == 0
    assert found.largest["km"] == pytest.approx(5e-10, rel=1e-3)  # 5e-9 of 10


def test_two_values_that_are_no_numbers_are_not_equal():
    broken = table(exact=[float("nan"), None, 0.1])
    assert compared(broken, broken).mismatches == 1


def test_a_row_that_one_side_lacks_counts_with_all_its_cells():
    found = compared(table(), table(transaction_id=["a", "b", "d"]))
    assert (found.rows, found.rows_in_one_only) == (2, 2)
    assert found.mismatches == 2 * 3


def test_another_type_is_no_equality():
    other = table().set_column(2, "count", pa.array([1.0, 2.0, 3.0]))
    assert compared(table(), other).report()["differing_cells"] == {"count": 3}


def test_only_distances_and_speeds_have_a_tolerance():
    assert set(tolerances(load_spec())) == {
        "home_distance_km",
        "card_distance_from_previous_km",
        "card_speed_from_previous_kmh",
    }


def test_the_exponent_of_cost_that_doubles_with_the_rows_is_one():
    assert exponent([100, 300, 1000], [2.0, 6.0, 20.0]) == pytest.approx(1.0)
    assert exponent([10, 1000], [1.0, 10.0]) == pytest.approx(0.5)
