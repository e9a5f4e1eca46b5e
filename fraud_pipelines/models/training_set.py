"""Building and reading the training set: features joined with the labels known at the right moments.

The rows and the split they were cut by are written in one transaction, so whatever reads the one reads the other.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from fraud_pipelines import tables
from fraud_pipelines.errors import ContractBroken, EmptySample, MissingPartition
from fraud_pipelines.evidence import hash_rows
from fraud_pipelines.features.spec import FeatureSpec
from fraud_pipelines.models.splits import PARTS, TEST, TRAIN, VALIDATION, TimeSplit, parse_as_of
from fraud_pipelines.warehouse import Session, Warehouse

# Columns beside the features.
IDENTITY = (
    "transaction_id",
    "event_time",
    "card_id",
    "amount_minor",
    "part",
    "is_fraud",
    "label_known_at",
    "card_is_known_compromised",
)


@dataclass(frozen=True)
class TrainingSet:
    """Labelled rows of one split, ordered by event time and transaction.

    `unlabelled` counts per part the transactions left out because no label was known at the part's moment.
    `data_hash` covers every row and column.
    """

    frame: pd.DataFrame
    split: TimeSplit
    spec_hash: str
    data_hash: str
    unlabelled: dict[str, int]

    def require_spec(self, spec: FeatureSpec, *, command: str) -> None:
        """Refuse rows whose features are of another spec.

        Args:
            command: builds them again.
        Raises:
            ContractBroken: the hashes differ.
        """
        if self.spec_hash != spec.hash:
            raise ContractBroken(
                f"{tables.TRAINING_SET} was built with feature spec {self.spec_hash[:12]}, the spec now is "
                f"{spec.hash[:12]}. Run: {command} (it builds the training set again)"
            )

    def part(self, *names: str) -> pd.DataFrame:
        """Rows of the parts named."""
        return self.frame[self.frame["part"].isin(names)].reset_index(drop=True)

    def rows(self, part: str) -> int:
        return int((self.frame["part"] == part).sum())

    def frauds(self, part: str) -> int:
        return int(self.frame.loc[self.frame["part"] == part, "is_fraud"].sum())

    def unlabelled_share(self, part: str) -> float | None:
        """Share of the part's transactions left out as unlabelled, in [0, 1]; None for an empty part."""
        total = self.rows(part) + self.unlabelled[part]
        return self.unlabelled[part] / total if total else None


def feature_span(warehouse: Warehouse) -> tuple[datetime, datetime]:
    """Moments of the first and last transaction that has features.

    Raises:
        MissingPartition: there are none.
    """
    if warehouse.exists(tables.TRANSACTION_FEATURES):
        found = warehouse.query(
            f"select min(event_time) as first, max(event_time) as last from {tables.TRANSACTION_FEATURES}"
        )
        if len(found) and not pd.isna(found["first"][0]):
            return found["first"][0].to_pydatetime(), found["last"][0].to_pydatetime()
    raise MissingPartition(
        f"{tables.TRANSACTION_FEATURES} has no rows, so there is nothing to train on. "
        "Run: fraud ingest FILE --mapping NAME, then: fraud materialize features"
    )


def split_for(
    warehouse: Warehouse,
    as_of: str | None,
    *,
    train_days: int,
    validation_days: int,
    test_days: int,
    label_delay_days: int,
) -> TimeSplit:
    """The split of a run, checked against the days the warehouse holds.

    Raises:
        MissingPartition: the features do not reach back, or forward, far enough.
        SettingInvalid: a length or the moment cannot be used.
    """
    first, last = feature_span(warehouse)
    split = TimeSplit(
        parse_as_of(as_of, last_event=last),
        train_days=train_days,
        validation_days=validation_days,
        test_days=test_days,
        label_delay_days=label_delay_days,
    )
    split.require_data_since(first)
    if last < split.test_since:
        raise MissingPartition(
            f"{tables.TRANSACTION_FEATURES} end at {last:%Y-%m-%d %H:%M}, before the test window "
            f"{split.test_since:%Y-%m-%d} to {split.test_until:%Y-%m-%d} of a run as of {split.as_of:%Y-%m-%d}. "
            f"Run: fraud materialize features --from {last:%Y-%m-%d} "
            f"--to {split.test_until - timedelta(days=1):%Y-%m-%d}, "
            "or train as of an earlier moment: fraud train --as-of DAY"
        )
    return split


def build_training_set(warehouse: Warehouse, spec: FeatureSpec, split: TimeSplit) -> TrainingSet:
    """Join features with labels and keep what was known in time.

    A training or validation row carries the latest label known by `split.test_since`, a test row the latest known by
    `split.as_of`. `card_is_known_compromised` marks validation and test rows of cards with a fraud since
    `split.known_cards_since` whose label was known before the row's day began; in training it is false.

    Raises:
        MissingPartition: a transaction of the windows has no features.
        EmptySample: a part has no labelled rows, or training has no fraud or no genuine row.
    """
    features = ", ".join(f"f.{name}" for name in spec.names if name not in IDENTITY)
    moments = {
        "train_since": split.train_since,
        "validation_since": split.validation_since,
        "train_until": split.train_until,
        "test_since": split.test_since,
        "test_until": split.test_until,
        "as_of": split.as_of,
    }
    with warehouse.session() as session:
        frame = session.query(
            f"""
            with known as (
                select transaction_id, is_fraud, known_at,
                    row_number() over (partition by transaction_id order by known_at desc) as recency
                from {tables.LABELS.name}
                where event_time >= :train_since and event_time < :test_until
                    and known_at <= case when event_time < :train_until
                        then cast(:test_since as timestamp) else cast(:as_of as timestamp) end
            )
            select t.transaction_id, t.event_time, t.card_id, t.amount_minor,
                case when t.event_time < :validation_since then '{TRAIN}'
                    when t.event_time < :train_until then '{VALIDATION}' else '{TEST}' end as part,
                k.is_fraud, k.known_at as label_known_at,
                case when f.transaction_id is null then 0 else 1 end as has_features, {features}
            from {tables.TRANSACTIONS.name} t
            left join {tables.TRANSACTION_FEATURES} f on f.transaction_id = t.transaction_id
            left join known k on k.transaction_id = t.transaction_id and k.recency = 1
            where (t.event_time >= :train_since and t.event_time < :train_until)
                or (t.event_time >= :test_since and t.event_time < :test_until)
            order by t.event_time, t.transaction_id
            """,
            **moments,
        )
        history = read_fraud_history(session, split.known_cards_since(VALIDATION), split.test_until)
    _require_features(frame)
    frame = frame.drop(columns="has_features")
    has_label = frame["is_fraud"].notna()
    unlabelled = {part: int(((frame["part"] == part) & ~has_label).sum()) for part in PARTS}
    frame = frame[has_label].reset_index(drop=True)
    frame["is_fraud"] = frame["is_fraud"].astype(bool)
    compromised = np.zeros(len(frame), dtype=bool)
    for part in (VALIDATION, TEST):
        judged = (frame["part"] == part).to_numpy()
        earlier = history[history["event_time"] >= split.known_cards_since(part)]
        compromised[judged] = mark_known_compromised(frame[judged], earlier)
    frame.insert(len(IDENTITY) - 1, "card_is_known_compromised", compromised)
    _require_rows(frame, split, unlabelled)
    return TrainingSet(frame, split, spec.hash, hash_rows(frame), unlabelled)


def read_fraud_history(session: Session, since: datetime, until: datetime) -> pd.DataFrame:
    """Labels of every transaction since then that was ever called fraud, known before `until`: which cards were known.

    Columns card_id, transaction_id, event_time, known_at, is_fraud, as `mark_known_compromised` takes them.
    """
    return session.query(
        f"""
        select t.card_id, l.transaction_id, l.event_time, l.known_at, l.is_fraud
        from {tables.LABELS.name} l
        join {tables.TRANSACTIONS.name} t on t.transaction_id = l.transaction_id
        where l.event_time >= :since and l.known_at < :until
            and l.transaction_id in (
                select transaction_id from {tables.LABELS.name}
                where is_fraud and event_time >= :since and known_at < :until)
        order by l.known_at, l.transaction_id
        """,
        since=since,
        until=until,
    )


def mark_known_compromised(rows: pd.DataFrame, fraud_history: pd.DataFrame) -> np.ndarray:
    """Which rows belong to a card that was already known as compromised when the row's UTC day began.

    A card is known as compromised when, of one of its transactions, the latest label known strictly before the day
    says fraud; a verdict that was corrected in time does not count.

    Args:
        rows: columns event_time and card_id.
        fraud_history: columns card_id, transaction_id, known_at, is_fraud; every label arrival of the transactions
            that may count.
    Returns:
        bool array of shape (len(rows),).

    Source: Fraud Detection Handbook, chapter 3, get_train_test_set: cards known on day d from frauds up to day
    d - delay - 1 are removed from test day d.
    """
    days = pd.DatetimeIndex(rows["event_time"]).normalize()
    marked = np.zeros(len(rows), dtype=bool)
    ordered = fraud_history.sort_values("known_at", kind="stable")
    for day in days.unique():
        latest = ordered[ordered["known_at"] < day].drop_duplicates("transaction_id", keep="last")
        cards = set(latest.loc[latest["is_fraud"].astype(bool), "card_id"])
        of_day = np.asarray(days == day)
        marked[of_day] = rows.loc[of_day, "card_id"].isin(cards).to_numpy()
    return marked


def _require_features(frame: pd.DataFrame) -> None:
    without = frame.loc[frame["has_features"] == 0, "event_time"]
    if len(without):
        first, last = without.min(), without.max()
        raise MissingPartition(
            f"{len(without)} of {len(frame)} transactions of the training windows, from {first:%Y-%m-%d} to "
            f"{last:%Y-%m-%d}, are not in {tables.TRANSACTION_FEATURES}. "
            f"Run: fraud materialize features --from {first:%Y-%m-%d} --to {last:%Y-%m-%d}"
        )


def _require_rows(frame: pd.DataFrame, split: TimeSplit, unlabelled: dict[str, int]) -> None:
    for part in PARTS:
        since, until = split.window(part)
        if since == until:
            continue
        rows = frame[frame["part"] == part]
        if rows.empty:
            raise EmptySample(
                f"The {part} window {since:%Y-%m-%d} to {until:%Y-%m-%d} has no transaction with features and a label "
                f"known by {split.labels_known_by(part):%Y-%m-%d %H:%M}; {unlabelled[part]} have features and no "
                "label yet. Ingest labels, materialize features for those days, or run: fraud train --as-of DAY"
            )
    training = frame.loc[frame["part"] != TEST, "is_fraud"]
    if training.all() or not training.any():
        raise EmptySample(
            f"Training rows {split.train_since:%Y-%m-%d} to {split.train_until:%Y-%m-%d}: expected frauds and genuine "
            f"transactions, found {int(training.sum())} frauds among {len(training)} labelled rows. "
            "Train on more days: fraud train --train-days N"
        )


def write_training_set(warehouse: Warehouse, training_set: TrainingSet) -> None:
    """Replace models.training_set and models.training_split together."""
    split_row = {
        **training_set.split.as_dict(),
        "spec_hash": training_set.spec_hash,
        "data_hash": training_set.data_hash,
        **{f"unlabelled_{part}_count": training_set.unlabelled[part] for part in PARTS},
    }
    with warehouse.session() as session:
        session.overwrite(tables.TRAINING_SET, training_set.frame)
        session.overwrite(tables.TRAINING_SPLIT, pd.DataFrame([split_row]))


def read_split(session: Session) -> TimeSplit:
    """The split of the training set as last materialized.

    Raises:
        MissingPartition: there is none.
    """
    return TimeSplit.from_dict(_split_row(session))


def read_training_set(warehouse: Warehouse) -> TrainingSet:
    """The training set as last materialized.

    Raises:
        MissingPartition: there is none.
    """
    with warehouse.session() as session:
        row = _split_row(session)
        frame = session.read(tables.TRAINING_SET)
    return TrainingSet(
        frame=frame,
        split=TimeSplit.from_dict(row),
        spec_hash=str(row["spec_hash"]),
        data_hash=str(row["data_hash"]),
        unlabelled={part: int(row[f"unlabelled_{part}_count"]) for part in PARTS},
    )


def _split_row(session: Session) -> dict[str, Any]:
    if not session.exists(tables.TRAINING_SPLIT):
        raise MissingPartition(f"{tables.TRAINING_SET} does not exist yet. Run: fraud train")
    row = session.query(f"select * from {tables.TRAINING_SPLIT}").to_dict("records")[0]
    return {str(name): value for name, value in row.items()}
