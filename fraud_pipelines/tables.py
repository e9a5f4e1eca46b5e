"""Each warehouse table that Python writes: grain, key, columns with unit and meaning.

Types are the words both warehouses understand. Times are UTC timestamps with microseconds and no zone;
money is integer minor units of `currency`. The features schema belongs to dbt, not to this file.
"""

from dataclasses import dataclass

TEXT, BIGINT, DOUBLE, BOOLEAN, TIMESTAMP, DATE = "text", "bigint", "double precision", "boolean", "timestamp", "date"


@dataclass(frozen=True)
class Column:
    """One column: its type, what it means, and whether it may be null."""

    type: str
    meaning: str
    nullable: bool = True


@dataclass(frozen=True)
class Table:
    """One warehouse table.

    `key` identifies a row; `time_column` is what a daily partition cuts, half open: [since, until).
    """

    name: str
    grain: str
    key: tuple[str, ...]
    columns: dict[str, Column]
    time_column: str | None = None

    @property
    def schema(self) -> str:
        return self.name.split(".")[0]


def _required(type_: str, meaning: str) -> Column:
    return Column(type_, meaning, nullable=False)


TRANSACTIONS = Table(
    "raw.transactions",
    "One row per transaction.",
    key=("transaction_id",),
    time_column="event_time",
    columns={
        "transaction_id": _required(TEXT, "Identifier given by the source."),
        "event_time": _required(TIMESTAMP, "When it happened, UTC; also the moment it is known."),
        "card_id": _required(TEXT, "Keyed token of the card; never a card number."),
        "merchant_id": _required(TEXT, "Merchant or terminal."),
        "amount_minor": _required(BIGINT, "Amount in minor units of the currency (cents)."),
        "currency": _required(TEXT, "ISO 4217 code."),
        "customer_id": Column(TEXT, "Owner of the card; joins raw.customers, never a feature."),
        "category": Column(TEXT, "Merchant category code or name."),
        "channel": Column(TEXT, "pos, online or atm."),
        "country": Column(TEXT, "ISO 3166 country of the merchant."),
        "device_id": Column(TEXT, "Device or terminal fingerprint."),
        "home_latitude": Column(DOUBLE, "Cardholder's home, degrees."),
        "home_longitude": Column(DOUBLE, "Cardholder's home, degrees."),
        "merchant_latitude": Column(DOUBLE, "Merchant's place, degrees."),
        "merchant_longitude": Column(DOUBLE, "Merchant's place, degrees."),
        "source": _required(TEXT, "Mapping that read it."),
        "ingestion_id": _required(TEXT, "Ingestion that brought it; see the ledger."),
    },
)

LABELS = Table(
    "raw.labels",
    "One row per label arrival: what we learnt about one transaction, and when.",
    key=("transaction_id", "known_at"),
    time_column="known_at",
    columns={
        "transaction_id": _required(TEXT, "Transaction the label is about."),
        "event_time": _required(TIMESTAMP, "When that transaction happened, UTC."),
        "known_at": _required(TIMESTAMP, "First moment the label could be known, UTC."),
        "is_fraud": _required(BOOLEAN, "True when the transaction was fraud."),
        "label_source": _required(TEXT, "chargeback, analyst, matured or file."),
        "ingestion_id": _required(TEXT, "Ingestion that brought it, or feedback that it is; see the ledger."),
    },
)

DECISIONS = Table(
    "raw.decisions",
    "One row per transaction decided by the scoring service: what was answered.",
    key=("transaction_id",),
    time_column="decided_at",
    columns={
        "transaction_id": _required(TEXT, "Identifier given by the caller."),
        "event_time": _required(TIMESTAMP, "When the transaction happened, UTC."),
        "decided_at": _required(TIMESTAMP, "When it was decided, UTC."),
        "decision": _required(TEXT, "APPROVE, REVIEW or BLOCK."),
        "fraud_probability": Column(DOUBLE, "Model output in [0, 1]; null where no model decided."),
        "model_version": Column(TEXT, "Registry version that decided; null where none did."),
        "bundle_digest": Column(TEXT, "SHA-256 of that model's bundle."),
        "fallback": Column(TEXT, "Why a rule decided instead of the model; null where the model did."),
        "review_threshold": Column(DOUBLE, "Probability from which it is REVIEW at least; null without a model."),
        "block_threshold": Column(DOUBLE, "Probability from which it is BLOCK; null without a model."),
        "reason_codes": Column(TEXT, "Codes of the top reasons, most important first, joined by ', '; null for none."),
        "card_id": _required(TEXT, "Keyed token of the card; never a card number."),
        "merchant_id": _required(TEXT, "Merchant or terminal."),
        "amount_minor": Column(BIGINT, "Amount in minor units of the currency (cents)."),
        "currency": Column(TEXT, "ISO 4217 code."),
        "position": _required(BIGINT, "Its place in the ledger, in order of arrival there."),
    },
)

FEEDBACK = Table(
    "raw.feedback",
    "One row per feedback of an analyst on a transaction.",
    key=("feedback_id",),
    time_column="known_at",
    columns={
        "feedback_id": _required(TEXT, "Identifier of the feedback; given twice it is the same."),
        "transaction_id": _required(TEXT, "Transaction it is about."),
        "verdict": _required(TEXT, "CONFIRMED_FRAUD, FALSE_POSITIVE, PENDING or ESCALATED."),
        "actor": _required(TEXT, "Who said so."),
        "known_at": _required(TIMESTAMP, "When the service received it, UTC."),
        "position": _required(BIGINT, "Its place in the ledger, in order of arrival there."),
    },
)

CUSTOMERS = Table(
    "raw.customers",
    "One row per customer; attributes for fairness only, never features.",
    key=("customer_id",),
    columns={
        "customer_id": _required(TEXT, "Owner of one or more cards."),
        "age_band": Column(TEXT, "Age band in years, such as 25-34."),
        "gender": Column(TEXT, "As the source gives it."),
        "region": Column(TEXT, "Region of residence."),
        "ingestion_id": _required(TEXT, "Ingestion that brought it; see the ledger."),
    },
)

QUARANTINE = Table(
    "raw.quarantine",
    "One row per source row that broke the contract.",
    key=("ingestion_id", "source_file", "source_row"),
    columns={
        "ingestion_id": _required(TEXT, "Ingestion that met it."),
        "source_file": _required(TEXT, "File name, relative to the folder ingested."),
        "source_row": _required(BIGINT, "Row number in that file, from 1."),
        "transaction_id": Column(TEXT, "Where readable."),
        "reason": _required(TEXT, "What was expected and what was found; several joined by '; '."),
        "row_json": _required(TEXT, "The mapped values as text, card number replaced by its token, others masked."),
    },
)

EVALUATIONS = Table(
    "models.evaluations",
    "One row per model version, evaluation moment and metric.",
    key=("model_version", "as_of", "metric"),
    columns={
        "model_version": _required(TEXT, "Registry version, or version/name of one of its baselines."),
        "as_of": _required(TIMESTAMP, "Moment of the evaluation: only labels known by then count."),
        "metric": _required(TEXT, "Name of the metric."),
        "value": Column(DOUBLE, "Its value; null where it is undefined on this sample."),
        "lower": Column(DOUBLE, "Lower bound of its 95 % interval (day-block bootstrap); null with too few days."),
        "upper": Column(DOUBLE, "Upper bound of that interval."),
        "rows": _required(BIGINT, "Rows it was computed on."),
        "fraud_count": _required(BIGINT, "Frauds among them."),
        "since": _required(TIMESTAMP, "First moment of the test window, inclusive."),
        "until": _required(TIMESTAMP, "End of the test window, exclusive."),
    },
)

EVALUATION_SCORES = Table(
    "models.evaluation_scores",
    "One row per model version, evaluation moment and test transaction.",
    key=("model_version", "as_of", "transaction_id"),
    time_column="event_time",
    columns={
        "model_version": _required(TEXT, "Registry version."),
        "as_of": _required(TIMESTAMP, "Moment of the evaluation, as in models.evaluations."),
        "transaction_id": _required(TEXT, "Transaction scored."),
        "event_time": _required(TIMESTAMP, "When it happened, UTC."),
        "card_id": _required(TEXT, "Keyed token of the card."),
        "amount_minor": _required(BIGINT, "Amount in minor units."),
        "is_fraud": _required(BOOLEAN, "Mature label."),
        "fraud_probability": _required(DOUBLE, "Model output in [0, 1]."),
    },
)

ATTRIBUTIONS = Table(
    "models.attributions",
    "One row per model version, evaluation moment and feature.",
    key=("model_version", "as_of", "feature"),
    columns={
        "model_version": _required(TEXT, "Registry version."),
        "as_of": _required(TIMESTAMP, "Moment of the evaluation whose test rows are explained."),
        "feature": _required(TEXT, "Feature name of the spec."),
        "mean_absolute_shap": _required(DOUBLE, "Mean absolute SHAP value on the test sample, log-odds."),
        "rows": _required(BIGINT, "Rows of the sample."),
    },
)

TUNING_TRIALS = Table(
    "models.tuning_trials",
    "One row per tuning and trial: the settings tried, and how they ranked.",
    key=("tuning_id", "trial"),
    columns={
        "tuning_id": _required(TEXT, "Tuning, as in models.tuned_parameters."),
        "trial": _required(BIGINT, "Number of the trial; 0 is the base."),
        "state": _required(TEXT, "complete, pruned (worse than the median) or stopped (the time budget ended)."),
        "value": Column(DOUBLE, "Mean average precision over the blocks, [0, 1]; null unless complete."),
        "fold_values": _required(TEXT, "JSON array: average precision of each block judged, oldest first."),
        "imbalance": _required(TEXT, "unweighted, weighted or balanced."),
        "parameters": _required(TEXT, "JSON object: every setting of the learners."),
    },
)

TUNED_PARAMETERS = Table(
    "models.tuned_parameters",
    "One row per tuning: what it chose, and why.",
    key=("tuning_id",),
    columns={
        "tuning_id": _required(TEXT, "Hash of the rows, the base, the search space, the seed and the budget."),
        "sequence": _required(BIGINT, "Order in which tunings ended, from 1; one that is run again gets a new number."),
        "as_of": _required(TIMESTAMP, "Moment of the training set; nothing known later was used."),
        "known_by": _required(TIMESTAMP, "Moment by which every row and label that had a say was known."),
        "data_hash": _required(TEXT, "Hash of the training set."),
        "spec_hash": _required(TEXT, "Hash of the feature spec."),
        "seed": _required(BIGINT, "Seed of the proposals."),
        "folds": _required(BIGINT, "Blocks of time each complete trial was judged on."),
        "trials_wanted": _required(BIGINT, "Trials asked for."),
        "trials": _required(BIGINT, "Trials begun: fewer than asked for where the time budget ended first."),
        "complete_count": _required(BIGINT, "Trials judged on every block."),
        "pruned_count": _required(BIGINT, "Trials given up as worse than the median."),
        "base_value": _required(DOUBLE, "Mean average precision of the base, [0, 1]."),
        "best_trial": _required(BIGINT, "Complete trial of the largest value."),
        "best_value": _required(DOUBLE, "Its mean average precision, [0, 1]."),
        "gain": _required(DOUBLE, "Relative gain of the best over the base; flattered by the choice."),
        "p_value": Column(DOUBLE, "One-sided p-value of that gain, corrected for the number of trials."),
        "p_value_limit": _required(DOUBLE, "The best is chosen at or below it."),
        "chosen_trial": _required(BIGINT, "The best, or 0: the base stays."),
        "chosen": _required(TEXT, "JSON object: every setting of the learners, as chosen."),
        "mlflow_run_id": _required(TEXT, "Run in MLflow that its trials are nested under."),
        "code_version": _required(TEXT, "Code that computed it."),
    },
)

SCORES = Table(
    "monitoring.scores",
    "One row per transaction: what the champion says about it.",
    key=("transaction_id",),
    time_column="event_time",
    columns={
        "transaction_id": _required(TEXT, "Transaction scored."),
        "event_time": _required(TIMESTAMP, "When it happened, UTC."),
        "model_version": _required(TEXT, "Registry version that scored it."),
        "fraud_probability": _required(DOUBLE, "Model output in [0, 1]."),
        "decision": _required(TEXT, "APPROVE, REVIEW or BLOCK at the version's thresholds."),
        "anomaly_score": Column(DOUBLE, "In (0, 1), 0.5 is average; null where the version has no isolation forest."),
        "reasons": Column(TEXT, "JSON: code and contribution (log-odds) of the top reasons; null for an APPROVE."),
    },
)

DRIFT = Table(
    "monitoring.drift",
    "One row per day, feature and method: distance of the trailing window from the training window.",
    key=("day", "feature", "method"),
    time_column="day",
    columns={
        "day": _required(TIMESTAMP, "Start of the partition; the trailing window ends with that day."),
        "model_version": _required(TEXT, "Champion whose training window is the reference."),
        "feature": _required(TEXT, "Feature, or fraud_probability for the model's output."),
        "method": _required(TEXT, "wasserstein, ks or jensenshannon."),
        "score": Column(DOUBLE, "Distance, or p-value for ks; null where a sample is empty."),
        "threshold": _required(DOUBLE, "Limit the score was compared with."),
        "is_drifted": _required(BOOLEAN, "Distance at or above the limit, or p-value below it."),
        "reference_rows": _required(BIGINT, "Rows of the reference sample."),
        "current_rows": _required(BIGINT, "Rows of the current sample."),
    },
)

PERFORMANCE = Table(
    "monitoring.performance",
    "One row per day, model version and metric, on labels mature at the end of that day.",
    key=("day", "model_version", "metric"),
    time_column="day",
    columns={
        "day": _required(TIMESTAMP, "Start of the partition; labels known by its end count."),
        "model_version": _required(TEXT, "Registry version that gave the scores."),
        "metric": _required(TEXT, "Name of the metric."),
        "value": Column(DOUBLE, "Its value; null where undefined on this sample."),
        "rows": _required(BIGINT, "Scored transactions with a mature label."),
        "fraud_count": _required(BIGINT, "Frauds among them."),
        "unlabelled_rows": _required(BIGINT, "Scored transactions of the window left out: label not known yet."),
    },
)

FAIRNESS = Table(
    "monitoring.fairness",
    "One row per day, model version, attribute and group, on labels mature at the end of that day.",
    key=("day", "model_version", "attribute", "group_name"),
    time_column="day",
    columns={
        "day": _required(TIMESTAMP, "Start of the partition; labels known by its end count."),
        "model_version": _required(TEXT, "Registry version that gave the scores and decisions."),
        "attribute": _required(TEXT, "age_band, gender or region."),
        "group_name": _required(TEXT, "Value of the attribute; 'unknown' where absent."),
        "rows": _required(BIGINT, "Scored transactions with a mature label."),
        "fraud_count": _required(BIGINT, "Frauds among them."),
        "flagged_share": Column(DOUBLE, "Share in REVIEW or BLOCK, [0, 1]."),
        "blocked_share": Column(DOUBLE, "Share in BLOCK, [0, 1]."),
        "false_positive_rate": Column(DOUBLE, "Flagged share of genuine transactions; null without any."),
        "true_positive_rate": Column(DOUBLE, "Flagged share of frauds; null without any."),
        "precision": Column(DOUBLE, "Fraud share of flagged transactions; null without any."),
        "is_suppressed": _required(BOOLEAN, "Group too small for its rates to be read."),
    },
)

PARITY = Table(
    "monitoring.parity",
    "One row per day and feature: served values against the warehouse.",
    key=("day", "feature"),
    time_column="day",
    columns={
        "day": _required(TIMESTAMP, "Start of the partition: day of the served transactions."),
        "feature": _required(TEXT, "Feature name of the spec."),
        "compared_count": _required(BIGINT, "Served transactions found in the warehouse."),
        "mismatch_count": _required(BIGINT, "Of these, values that differ."),
        "largest_difference": Column(DOUBLE, "Largest absolute difference; null where one side was null."),
        "absent_count": _required(BIGINT, "Served transactions not in the warehouse (yet)."),
    },
)

EVIDENCE_INDEX = Table(
    "compliance.evidence_index",
    "One row per number printed in a report.",
    key=("report_id", "number_id"),
    columns={
        "report_id": _required(TEXT, "Report that prints it."),
        "number_id": _required(TEXT, "Section and position, such as 6.1."),
        "label": _required(TEXT, "What the number says."),
        "printed_value": _required(TEXT, "As printed, or NOT AVAILABLE."),
        "asset": _required(TEXT, "Asset it comes from."),
        "partition": Column(TEXT, "Partition of that asset, where it has one."),
        "run_id": Column(TEXT, "Dagster run that materialized it."),
        "code_version": _required(TEXT, "Code that computed it."),
        "data_hash": Column(TEXT, "Hash of the rows it was computed from."),
    },
)

PRINTED_EVIDENCE = Table(
    "compliance.printed_evidence",
    "One row per document and asset upstream: the materialization its numbers are traced to, as first printed.",
    key=("report_id", "asset"),
    columns={
        "report_id": _required(TEXT, "Document that was printed."),
        "asset": _required(TEXT, "Asset upstream that had been materialized by then."),
        "partition": Column(TEXT, "Partition of that asset, where it has one."),
        "run_id": Column(TEXT, "Dagster run that materialized it."),
        "code_version": _required(TEXT, "Code that computed it."),
        "data_hash": Column(TEXT, "Hash of the rows it wrote."),
    },
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        TRANSACTIONS,
        LABELS,
        DECISIONS,
        FEEDBACK,
        CUSTOMERS,
        QUARANTINE,
        EVALUATIONS,
        EVALUATION_SCORES,
        ATTRIBUTIONS,
        TUNING_TRIALS,
        TUNED_PARAMETERS,
        SCORES,
        DRIFT,
        PERFORMANCE,
        FAIRNESS,
        PARITY,
        EVIDENCE_INDEX,
        PRINTED_EVIDENCE,
    )
}

# Written by dbt and by models/training_set: their columns follow the feature spec.
TRANSACTION_FEATURES = "features.transaction_features"
TRAINING_SET = "models.training_set"
TRAINING_SPLIT = "models.training_split"  # one row: the windows and hashes of models.training_set
