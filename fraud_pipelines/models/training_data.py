"""Whether the raw rows behind a training set are sound, whichever run brought them.

A check of the raw stage judges the days of its own run. A file that failed leaves its rows in the warehouse, and the
next file's success is then the latest word; so the days that a model learns from are judged again, all of them.
"""

from datetime import datetime, timedelta

from fraud_pipelines import limits, tables
from fraud_pipelines.features.spec import FeatureSpec
from fraud_pipelines.models.splits import TimeSplit
from fraud_pipelines.raw.contract import CHANNELS
from fraud_pipelines.raw.currencies import EXPONENTS
from fraud_pipelines.warehouse import Session


def judged_window(split: TimeSplit, spec: FeatureSpec) -> tuple[datetime, datetime]:
    """[since, until) of the transactions behind a training set: its windows, and what their features look back on."""
    return split.train_since - timedelta(microseconds=spec.reach_us), split.test_until


def broken_facts(session: Session, split: TimeSplit, spec: FeatureSpec) -> dict[str, int]:
    """How many rows behind the training set break each fact, zeros included; what blocks in the raw stage blocks here.

    The delay between the windows counts too, as the test rows' features look back on it. Features must be there for
    the windows alone.
    """
    since, until = judged_window(split, spec)
    facts = {**_ROWS_BROKEN_WHEN, **_PLACES_BROKEN_WHEN}
    counts = ", ".join(
        f"coalesce(sum(case when {condition} then 1 else 0 end), 0) as {name}" for name, condition in facts.items()
    )
    rows = session.query(
        f"select {counts} from {tables.TRANSACTIONS.name} where event_time >= :since and event_time < :until",
        since=since,
        until=until,
    ).iloc[0]
    labels = session.query(
        f"""
        select count(*) as broken from {tables.LABELS.name} l
        left join {tables.TRANSACTIONS.name} t on t.transaction_id = l.transaction_id
        where l.event_time >= :since and l.event_time < :until
            and (l.known_at < l.event_time or l.known_at < t.event_time)
        """,
        since=since,
        until=until,
    )["broken"][0]
    without_features = session.query(
        f"""
        select count(*) as broken from {tables.TRANSACTIONS.name} t
        where ((t.event_time >= :train_since and t.event_time < :train_until)
            or (t.event_time >= :test_since and t.event_time < :test_until))
            and not exists (
                select 1 from {tables.TRANSACTION_FEATURES} f where f.transaction_id = t.transaction_id)
        """,
        train_since=split.train_since,
        train_until=split.train_until,
        test_since=split.test_since,
        test_until=split.test_until,
    )["broken"][0]
    return {
        **{name: int(rows[name]) for name in facts},
        "label_precedes_its_transaction": int(labels),
        "transaction_without_features": int(without_features),
    }


def _words(values: tuple[str, ...]) -> str:
    return ", ".join(f"'{value}'" for value in values)


_REQUIRED = ("transaction_id", "card_id", "merchant_id", "amount_minor", "currency")
# `tok_` and 32 hex digits, in words both warehouses know: without its hex digits nothing is left.
_HEX_LEFT = "translate(substr(card_id, 5), '0123456789abcdef', '')"
_ROWS_BROKEN_WHEN = {
    "required_field_is_null": " or ".join(f"{name} is null" for name in _REQUIRED),
    "card_id_is_no_token": f"length(card_id) <> 36 or substr(card_id, 1, 4) <> 'tok_' or length({_HEX_LEFT}) > 0",
    "amount_out_of_range": f"amount_minor < 0 or amount_minor > {limits.LARGEST_AMOUNT_MINOR}",
    "currency_unknown": f"currency not in ({_words(tuple(EXPONENTS))})",
    "channel_unknown": f"channel not in ({_words(CHANNELS)})",
    "country_is_no_code": "length(country) <> 2",
}
_PLACES_BROKEN_WHEN = {
    f"{place}_{axis}_out_of_range": f"abs({place}_{axis}) > {largest}"
    for place in ("home", "merchant")
    for axis, largest in (("latitude", 90), ("longitude", 180))
}
