import pytest

from fraud_pipelines.errors import SpecInvalid
from fraud_pipelines.features.spec import SPEC_PATH, load_spec, parse_spec, parse_window

HOUR_US = 3_600_000_000

ENTRY = """
models:
  - name: transaction_features
    columns:
      - {name: transaction_id, data_type: text}
      - name: card_amount_mean_7d
        data_type: double precision
        description: Mean amount of the card in the 7 days before.
        config:
          meta:
            entity: card
            measure: mean
            of: amount
            window: 7d
            resolution: event
            unit: currency
            when_empty: missing
            reason: Usual amount of this card
"""


def test_an_entry_becomes_a_feature():
    spec = parse_spec(ENTRY)
    (feature,) = spec.features
    assert spec.names == ("card_amount_mean_7d",)
    assert (feature.entity, feature.measure, feature.of) == ("card", "mean", "amount")
    assert feature.window_us == 7 * 24 * HOUR_US
    assert feature.window == "7d"
    assert feature.meaning == "Mean amount of the card in the 7 days before."
    assert spec.text == ENTRY


@pytest.mark.parametrize(("text", "hours"), [("1h", 1), ("24h", 24), ("1d", 24), ("30d", 720)])
def test_windows_are_hours_or_days(text, hours):
    assert parse_window(text) == hours * HOUR_US


@pytest.mark.parametrize("text", ["", "0h", "7", "7w", "-1d", "1.5h", "None", "24 h", "07d"])
def test_other_windows_are_refused(text):
    with pytest.raises(ValueError, match="hours or days"):
        parse_window(text)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "entity: card",
            "entity: customer",
            r"`entity` must be 'transaction' or 'card' or 'merchant', found 'customer'",
        ),
        ("measure: mean", "measure: median", r"`measure` must be 'count' or .*found 'median'"),
        ("of: amount", "of: labels", r"`of` must be 'amount', found 'labels'"),
        ("window: 7d", "window: 7w", r"`window`: expected hours or days such as 24h or 7d, found '7w'"),
        ("            window: 7d\n", "", r"`window`: expected hours or days.*found 'None'"),
        ("resolution: event", "resolution: day", r"`resolution` must be 'event', found 'day'"),
        ("when_empty: missing", "when_empty: null", r"`when_empty` must be 'zero' or 'missing', found None"),
        ("unit: currency", "unit: ''", r"`unit` must be one line of text"),
        ("reason: Usual", "raison: Usual", r"unknown field 'raison'"),
        ("data_type: double precision", "data_type: float", r"`data_type` must be 'double precision', found 'float'"),
        ("name: card_amount_mean_7d", "name: Card-Mean", r"'Card-Mean': `name` must be lower-case"),
        ("measure: mean", "measure: sum", r"a sum of nothing is 0: `when_empty` must be 'zero'"),
    ],
)
def test_a_wrong_entry_is_refused_by_name_field_and_allowed_values(old, new, expected):
    assert old in ENTRY
    with pytest.raises(SpecInvalid, match=expected) as caught:
        parse_spec(ENTRY.replace(old, new))
    assert "Feature '" in str(caught.value)


def test_a_transaction_feature_has_no_window():
    text = ENTRY.replace("entity: card", "entity: transaction").replace("measure: mean", "measure: value")
    with pytest.raises(SpecInvalid, match="'window' does not apply"):
        parse_spec(text)


def test_a_name_belongs_to_one_entry():
    entry = ENTRY[ENTRY.index("      - name: card_amount_mean_7d") :]
    with pytest.raises(SpecInvalid, match="'card_amount_mean_7d' is defined twice"):
        parse_spec(ENTRY + entry.lstrip("\n"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models: []", "no model"),
        (": {", "not YAML"),
        ("- a", "no model"),
        (ENTRY[: ENTRY.index("      - name")], "no feature"),
    ],
)
def test_a_text_without_features_is_refused(text, expected):
    with pytest.raises(SpecInvalid, match=expected):
        parse_spec(text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SpecInvalid, match=r"nothing\.yml cannot be read"):
        load_spec(tmp_path / "nothing.yml")


def test_the_hash_follows_the_numbers_and_not_the_words():
    spec = parse_spec(ENTRY)
    reworded = parse_spec(ENTRY.replace("Mean amount of the card", "Average amount").replace("Usual", "Typical"))
    same_length = parse_spec(ENTRY.replace("window: 7d", "window: 168h"))
    assert reworded.hash == same_length.hash == spec.hash
    for old, new in (("7d\n", "8d\n"), ("mean\n", "max\n"), ("missing", "zero"), ("entity: card", "entity: merchant")):
        assert parse_spec(ENTRY.replace(old, new)).hash != spec.hash, old


def test_the_projects_own_spec_is_valid_and_says_what_each_feature_is_for():
    spec = load_spec()
    assert spec.text == SPEC_PATH.read_text(encoding="utf-8")
    assert len(spec.features) >= 20
    assert len({feature.reason for feature in spec.features}) == len(spec.features)
    assert spec.longest_window_us("card") == 30 * 24 * HOUR_US
    assert spec.longest_window_us("merchant", of_labels=False) == 7 * 24 * HOUR_US
    assert spec.longest_window_us("transaction") == 0


def test_an_unknown_feature_is_refused_with_the_known_names():
    with pytest.raises(SpecInvalid, match=r"no feature 'nonsense'.*card_count_24h"):
        load_spec().feature("nonsense")
