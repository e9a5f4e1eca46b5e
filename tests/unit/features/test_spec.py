import pytest

from fraud_pipelines.errors import SpecInvalid
from fraud_pipelines.features.spec import SPEC_PATH, LargeAmount, load_spec, parse_spec, parse_window
from fraud_pipelines.reasons import ReasonCode

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
LARGE = "    config: {meta: {large_amount: {baseline: 30d, limit: 2.5, at_least: 3}}}\n"
REASONS = """\
        reasons:
          CARD_AMOUNTS: {words: Amounts paid with this card, meaning: Their mean.}
          UNUSUAL_COMBINATION: {words: Whole payment, meaning: Its anomaly score.}
"""
WITH_REASONS = ENTRY.replace("    columns:\n", f"    config:\n      meta:\n{REASONS}    columns:\n").replace(
    "reason: Usual amount of this card", "reason: CARD_AMOUNTS"
)
OF_LARGE = ENTRY.replace("measure: mean", "measure: max").replace("of: amount", "of: amount_ratio")


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
        (
            "measure: mean\n            of: amount",
            "measure: distinct\n            of: card",
            r"`of` must be .*found 'card'",
        ),
        (
            "entity: card\n            measure: mean",
            "entity: merchant\n            measure: is_new",
            r"'is_new' does not apply to entity merchant",
        ),
        (
            "entity: card\n            measure: mean\n            of: amount",
            "entity: merchant\n            measure: count\n            of: same_merchant",
            r"`of` must be 'transactions' or 'large_amounts' or .*found 'same_merchant'",
        ),
        (
            "measure: mean\n            of: amount",
            "measure: last\n            of: label",
            r"`data_type` must be 'bigint', found 'double precision'",
        ),
        ("window: 7d", "window: 7w", r"`window`: expected hours or days such as 24h or 7d, found '7w'"),
        ("            window: 7d\n", "", r"`window`: expected hours or days.*found 'None'"),
        ("resolution: event", "resolution: day", r"`resolution` must be 'event', found 'day'"),
        ("when_empty: missing", "when_empty: null", r"`when_empty` must be 'zero' or 'missing', found None"),
        ("unit: currency", "unit: ''", r"`unit` must be one line of text"),
        ("reason: Usual", "raison: Usual", r"unknown field 'raison'"),
        ("data_type: double precision", "data_type: float", r"`data_type` must be 'double precision', found 'float'"),
        ("name: card_amount_mean_7d", "name: Card-Mean", r"'Card-Mean': `name` must be lower-case"),
        ("measure: mean", "measure: sum", r"a sum of nothing is 0: `when_empty` must be 'zero'"),
        (
            "measure: mean\n            of: amount",
            "measure: streak\n            of: frauds",
            r"a streak of nothing is 0: `when_empty` must be 'zero'",
        ),
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


@pytest.mark.parametrize("of", ["is_online", "is_atm", "is_night", "hour_of_day"])
def test_a_flag_of_the_transaction_is_a_whole_number(of):
    start, end = ENTRY.index("            window:"), ENTRY.index("            unit:")
    text = (
        (ENTRY[:start] + ENTRY[end:])
        .replace("entity: card", "entity: transaction")
        .replace("measure: mean", "measure: value")
    )
    text = text.replace("of: amount", f"of: {of}")
    with pytest.raises(SpecInvalid, match="`data_type` must be 'bigint'"):
        parse_spec(text)
    (feature,) = parse_spec(text.replace("double precision", "bigint")).features
    assert (feature.measure, feature.of, feature.window_us) == ("value", of, None)


def test_large_amounts_are_defined_once_for_the_model():
    text = OF_LARGE.replace("    columns:\n", LARGE + "    columns:\n")
    spec = parse_spec(text)
    assert spec.large_amount == LargeAmount(30 * 24 * HOUR_US, 25, 3, "30d")
    # A transaction at the far end of the window is compared with the baseline before it.
    assert spec.transactions_reach_us("card") == 37 * 24 * HOUR_US
    for old, new in (("30d", "29d"), ("2.5", "2.4"), ("at_least: 3", "at_least: 4")):
        assert parse_spec(text.replace(old, new)).hash != spec.hash, old


@pytest.mark.parametrize(
    ("large", "expected"),
    [
        ("", "'card_amount_mean_7d' needs `large_amount`"),
        ("    config: {meta: null}\n", "'card_amount_mean_7d' needs `large_amount`"),
        (LARGE.replace("limit: 2.5, ", ""), "expected the fields baseline, limit, at_least, found"),
        (LARGE.replace("at_least: 3", "at_least: 3, unit: x"), "expected the fields baseline, limit, at_least, found"),
        (LARGE.replace("30d", "4w"), "`large_amount`: expected hours or days such as 24h or 7d, found '4w'"),
        (LARGE.replace("2.5", "2.55"), "`limit` must be positive with one decimal, found 2.55"),
        (LARGE.replace("2.5", "-1"), "`limit` must be positive with one decimal, found -1"),
        (LARGE.replace("2.5", ".inf"), "`limit` must be positive with one decimal, found inf"),
        (LARGE.replace("2.5", ".nan"), "`limit` must be positive with one decimal, found nan"),
        (LARGE.replace("2.5", "much"), "`limit` must be positive with one decimal, found 'much'"),
        (LARGE.replace("at_least: 3", "at_least: 0"), "`at_least` must be a positive whole number, found 0"),
        (LARGE.replace("at_least: 3", "at_least: 2.5"), "`at_least` must be a positive whole number, found 2.5"),
        (LARGE.replace("at_least: 3", "at_least: true"), "`at_least` must be a positive whole number, found True"),
        ("    config: {meta: {large_amount: 2.5}}\n", "expected the fields baseline, limit, at_least, found 2.5"),
    ],
)
def test_a_wrong_large_amount_is_refused(large, expected):
    with pytest.raises(SpecInvalid, match=expected):
        parse_spec(OF_LARGE.replace("    columns:\n", large + "    columns:\n"))


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


def test_a_feature_counts_under_the_code_it_names():
    spec = parse_spec(WITH_REASONS)
    assert spec.feature("card_amount_mean_7d").reason == "CARD_AMOUNTS"
    assert spec.reason("CARD_AMOUNTS") == ReasonCode("CARD_AMOUNTS", "Amounts paid with this card", "Their mean.")
    assert [reason.code for reason in spec.reasons] == ["CARD_AMOUNTS", "UNUSUAL_COMBINATION"]
    with pytest.raises(SpecInvalid, match=r"no reason 'AMOUNT'. Known: CARD_AMOUNTS, UNUSUAL_COMBINATION\."):
        spec.reason("AMOUNT")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "reason: CARD_AMOUNTS",
            "reason: CARD_AMOUNT",
            r"Feature 'card_amount_mean_7d': `reason` must be a code of the model's `reasons`, found 'CARD_AMOUNT'\. "
            r"Name one of CARD_AMOUNTS, or add a code",
        ),
        ("reason: CARD_AMOUNTS", "reason: ''", r"`reason` must be a code of the model's `reasons`, found ''"),
        ("reason: CARD_AMOUNTS", "reason: [CARD_AMOUNTS]", r"must be a code .*, found \['CARD_AMOUNTS'\]"),
        ("            reason: CARD_AMOUNTS\n", "", r"`reason` must be a code of the model's `reasons`, found None"),
        (
            "reason: CARD_AMOUNTS",
            "reason: UNUSUAL_COMBINATION",
            r"UNUSUAL_COMBINATION belongs to the model input 'anomaly_score' alone; expected one of CARD_AMOUNTS\.",
        ),
        ("CARD_AMOUNTS: {", "card_amounts: {", r"Reason 'card_amounts': a code must be upper-case letters"),
        ("CARD_AMOUNTS: {", "7: {", r"Reason 7: a code must be upper-case letters"),
        (", meaning: Their mean.", "", r"Reason CARD_AMOUNTS: expected the fields words and meaning, found"),
        ("meaning: Their mean.", "meaning: A, text: B", r"CARD_AMOUNTS: expected the fields words and meaning, found"),
        (
            "words: Amounts paid with this card",
            "words: ' '",
            r"CARD_AMOUNTS: `words` must be one line of text, found ' '",
        ),
        ("meaning: Their mean.", "meaning: null", r"CARD_AMOUNTS: `meaning` must be one line of text, found None"),
        ("Whole payment", "Amounts paid with THIS card", r"CARD_AMOUNTS and UNUSUAL_COMBINATION have the same words"),
        ("UNUSUAL_COMBINATION:", "RARE:", r"`reasons` lacks UNUSUAL_COMBINATION, the reason of .*'anomaly_score'"),
        (REASONS, "        reasons: {}\n", r"`reasons`: expected codes with their words and meaning, found {}"),
        (REASONS, "        reasons: null\n", r"`reasons`: expected codes with their words and meaning, found None"),
    ],
)
def test_a_wrong_reason_is_refused_with_what_is_allowed(old, new, expected):
    assert old in WITH_REASONS
    with pytest.raises(SpecInvalid, match=expected):
        parse_spec(WITH_REASONS.replace(old, new))


def test_a_bundle_of_before_the_catalogue_keeps_its_own_words():
    spec = parse_spec(ENTRY)
    assert spec.features[0].reason == "CARD_AMOUNT_MEAN_7D"
    assert [(reason.code, reason.words) for reason in spec.reasons] == [
        ("CARD_AMOUNT_MEAN_7D", "Usual amount of this card")
    ]


def test_the_projects_spec_may_not_be_without_a_catalogue(tmp_path):
    file = tmp_path / "spec.yml"
    file.write_text(ENTRY, encoding="utf-8")
    with pytest.raises(SpecInvalid, match=r"spec\.yml has no catalogue of reasons: expected `reasons` in config\.meta"):
        load_spec(file)
    file = tmp_path / "with_reasons.yml"
    file.write_text(WITH_REASONS, encoding="utf-8")
    assert load_spec(file) == parse_spec(WITH_REASONS)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SpecInvalid, match=r"nothing\.yml cannot be read"):
        load_spec(tmp_path / "nothing.yml")


def test_the_hash_follows_the_numbers_and_not_the_words():
    spec = parse_spec(ENTRY)
    reworded = parse_spec(ENTRY.replace("Mean amount of the card", "Average amount").replace("Usual", "Typical"))
    same_length = parse_spec(ENTRY.replace("window: 7d", "window: 168h"))
    assert reworded.hash == same_length.hash == spec.hash
    assert parse_spec(WITH_REASONS).hash == parse_spec(WITH_REASONS.replace("Their mean", "Mean")).hash == spec.hash
    for old, new in (("7d\n", "8d\n"), ("mean\n", "max\n"), ("missing", "zero"), ("entity: card", "entity: merchant")):
        assert parse_spec(ENTRY.replace(old, new)).hash != spec.hash, old


def test_the_projects_own_spec_is_valid_and_says_what_each_feature_is_for():
    spec = load_spec()
    assert spec.text == SPEC_PATH.read_text(encoding="utf-8")
    assert len(spec.features) >= 100
    # A large amount of 14 days ago is measured by the 30 days before it.
    assert spec.transactions_reach_us("card") == 44 * 24 * HOUR_US
    # A fraud reported 14 days ago is measured by the 30 days before that.
    assert spec.transactions_reach_us("merchant") == 44 * 24 * HOUR_US
    assert spec.transactions_reach_us("transaction") == 0
    assert spec.labels_reach_us("card") == spec.labels_reach_us("merchant") == 30 * 24 * HOUR_US


def test_only_the_features_of_labels_and_of_unlabelled_transactions_reach_for_labels():
    assert parse_spec(ENTRY).labels_reach_us("card") == 0
    counted = (
        ENTRY.replace("measure: mean", "measure: count")
        .replace("missing", "zero")
        .replace("double precision", "bigint")
    )
    unlabelled = parse_spec(counted.replace("of: amount", "of: unlabelled"))
    assert unlabelled.labels_reach_us("card") == unlabelled.transactions_reach_us("card") == 7 * 24 * HOUR_US
    frauds = parse_spec(counted.replace("of: amount", "of: frauds"))
    assert (frauds.labels_reach_us("card"), frauds.transactions_reach_us("card")) == (7 * 24 * HOUR_US, 0)
    text = counted.replace("of: amount", "of: ordinary_frauds").replace("    columns:\n", LARGE + "    columns:\n")
    ordinary = parse_spec(text)
    assert ordinary.labels_reach_us("card") == 7 * 24 * HOUR_US
    assert ordinary.transactions_reach_us("card") == 37 * 24 * HOUR_US


def test_an_unknown_feature_is_refused_with_the_known_names():
    with pytest.raises(SpecInvalid, match=r"no feature 'nonsense'.*card_count_24h"):
        load_spec().feature("nonsense")
