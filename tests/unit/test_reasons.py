"""The catalogue of reasons: complete, in use, in words that anybody may read and that are true of any payment."""

from __future__ import annotations

import re

import pytest

from fraud_pipelines import reasons
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.reasons import ANOMALY_SCORE, FALLBACK_REASONS, UNUSUAL_COMBINATION
from serving.answer_schemas import Reason

SPEC = load_spec()
JARGON = r"shap|log-odds|label|feature|model|score|anomal|z-?score|ratio|deviation|velocity|entity|window|mcc|atm|null"
BLAME = r"suspicio|criminal|stolen|thief|fraudster|fraudulent|guilty|abuse|illegal|your?\b"


def test_every_code_is_in_use_and_there_are_few():
    used = {feature.reason for feature in SPEC.features}
    codes = [reason.code for reason in SPEC.reasons]
    assert set(codes) == {*used, UNUSUAL_COMBINATION}
    assert UNUSUAL_COMBINATION not in used
    assert 15 <= len(codes) <= 25
    # YAML takes the last of two entries with one key, without a word.
    assert SPEC.text.count("            words: ") == len(codes)


def test_the_codes_are_those_that_others_depend_on():
    # A code that goes breaks letters and other systems: do it knowingly, and never give one another meaning.
    assert [reason.code for reason in SPEC.reasons] == [
        "AMOUNT",
        "AMOUNT_FOR_CARD",
        "AMOUNT_FOR_MERCHANT",
        "TIME_OF_DAY",
        "DAY_OF_WEEK",
        "WAY_OF_PAYING",
        "DISTANCE_FROM_HOME",
        "DISTANCE_FROM_LAST_PAYMENT",
        "TIME_SINCE_LAST_PAYMENT",
        "PAYMENTS_ON_CARD",
        "MONEY_SPENT_ON_CARD",
        "SIZE_OF_CARD_PAYMENTS",
        "LARGE_PAYMENTS_ON_CARD",
        "DEVICE_FOR_CARD",
        "COUNTRY_FOR_CARD",
        "MERCHANT_FOR_CARD",
        "KIND_OF_MERCHANT_FOR_CARD",
        "FRAUD_REPORTS_ON_CARD",
        "KNOWN_OUTCOMES_ON_CARD",
        "ACTIVITY_AT_MERCHANT",
        "SIZE_OF_MERCHANT_PAYMENTS",
        "FRAUD_REPORTS_AT_MERCHANT",
        "KNOWN_OUTCOMES_AT_MERCHANT",
        "UNUSUAL_COMBINATION",
    ]


@pytest.mark.parametrize("reason", SPEC.reasons, ids=lambda reason: reason.code)
def test_the_words_are_plain_blame_nobody_and_claim_no_direction(reason):
    assert re.search(JARGON, reason.words, re.IGNORECASE) is None
    assert re.search(BLAME, reason.words, re.IGNORECASE) is None
    # A low value can raise a score like a high one, and of most cards nothing was reported: name it, do not state it.
    assert re.search(r"(?<!How )\b(many|much|few|high|low|too|far|new)\b", reason.words) is None
    assert "reported" not in reason.words or reason.words.startswith("Whether")
    assert reason.words[0].isupper()
    assert not reason.words.endswith(".")
    assert len(reason.words) <= 90
    assert reason.meaning.endswith(".")


def test_features_that_differ_in_their_window_alone_have_one_code():
    codes: dict[tuple[str, str, str], set[str]] = {}
    for feature in SPEC.features:
        codes.setdefault((feature.entity, feature.measure, feature.of), set()).add(feature.reason)
    assert {key: found for key, found in codes.items() if len(found) > 1} == {}


@pytest.mark.parametrize(
    ("feature", "code"),
    [
        ("card_amount_zscore_30d", "AMOUNT_FOR_CARD"),
        ("card_genuine_amount_ratio_30d", "AMOUNT_FOR_CARD"),
        ("merchant_amount_ratio_30d", "AMOUNT_FOR_MERCHANT"),
        ("card_amount_ratio_max_14d", "LARGE_PAYMENTS_ON_CARD"),
        ("card_minutes_since_large_amount", "LARGE_PAYMENTS_ON_CARD"),
        ("card_amount_std_6h", "SIZE_OF_CARD_PAYMENTS"),
        ("card_night_share_30d", "TIME_OF_DAY"),
        ("is_weekend", "DAY_OF_WEEK"),
        ("is_atm", "WAY_OF_PAYING"),
        ("card_speed_from_previous_kmh", "DISTANCE_FROM_LAST_PAYMENT"),
        ("card_same_merchant_count_30d", "MERCHANT_FOR_CARD"),
        ("card_is_new_device_30d", "DEVICE_FOR_CARD"),
        ("card_country_changed", "COUNTRY_FOR_CARD"),
        ("card_fraud_streak_minutes", "FRAUD_REPORTS_ON_CARD"),
        ("merchant_fraud_share_7d", "FRAUD_REPORTS_AT_MERCHANT"),
        ("merchant_minutes_since_genuine", "KNOWN_OUTCOMES_AT_MERCHANT"),
        ("card_unlabelled_count_7d", "KNOWN_OUTCOMES_ON_CARD"),
        ("merchant_cards_7d", "ACTIVITY_AT_MERCHANT"),
    ],
)
def test_a_feature_counts_where_an_analyst_looks_for_it(feature, code):
    assert SPEC.feature(feature).reason == code


def test_codes_of_a_model_and_of_a_rule_cannot_be_confused():
    assert all(reason.code.isupper() for reason in SPEC.reasons)
    assert all(code.islower() and code == reason.code for code, reason in FALLBACK_REASONS.items())
    for reason in FALLBACK_REASONS.values():
        assert reason.words.endswith(": a person must look")
        assert reason.meaning.endswith(".")


def test_every_cause_of_a_rule_has_its_words():
    causes = {value for name, value in vars(reasons).items() if name.isupper() and isinstance(value, str)}
    assert causes - {UNUSUAL_COMBINATION, ANOMALY_SCORE} == set(FALLBACK_REASONS)
    assert len(FALLBACK_REASONS) >= 7


def test_the_examples_of_the_service_are_of_the_catalogue():
    fields = Reason.model_json_schema()["properties"]
    known = {reason.code: reason.words for reason in (*SPEC.reasons, *FALLBACK_REASONS.values())}
    assert [known[code] for code in fields["code"]["examples"]] == fields["words"]["examples"]
    assert len(fields["code"]["examples"]) == 2
