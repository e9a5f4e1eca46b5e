"""Everything a document prints, gathered once into frozen records, each with the evidence of its numbers.

Nothing here depends on the clock: the moment is `as_of`, and only what was known by then is read (rule 1).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from fraud_pipelines import limits, tables
from fraud_pipelines.compliance.blocks import Fact, Tone, as_text
from fraud_pipelines.compliance.known import are_labels_whole, is_whole, known_ingestions, known_promotions
from fraud_pipelines.errors import ContractBroken
from fraud_pipelines.evidence import Evidence, code_version, hash_rows
from fraud_pipelines.features.spec import FeatureSpec
from fraud_pipelines.ledger.records import Ingestion, Promotion
from fraud_pipelines.models.comparison import Comparison
from fraud_pipelines.models.policy import PolicyBasis
from fraud_pipelines.warehouse.interface import Session

CROSSWALK = Path(__file__).with_name("crosswalk.yml")

GATE_COLUMNS = ["name", "passed", "value", "limit", "words"]

# Assets the documents speak about, in the order data flows.
LINEAGE = (
    "raw/transactions",
    "raw/labels",
    "raw/customers",
    "features/transaction_features",
    "models/training_set",
    "models/candidate",
    "models/evaluation",
    "models/champion",
    "monitoring/scores",
    "monitoring/drift",
    "monitoring/performance",
    "monitoring/fairness",
    "monitoring/parity",
)


@dataclass(frozen=True)
class Sourced:
    """Rows read for a document, and the evidence of every number taken from them. No rows means not available."""

    rows: pd.DataFrame
    evidence: Evidence

    @property
    def is_available(self) -> bool:
        return not self.rows.empty

    def records(self) -> Iterator[Any]:
        """The rows one by one, columns as attributes."""
        return iter(self.rows.rename(columns={"name": "name_"}).itertuples())

    def fact(self, label: str, value: Any, style: str, tone: Tone = "neutral") -> Fact:
        return Fact(label, as_text(value, style), self.evidence, tone)

    def first(self, label: str, column: str, style: str) -> Fact:
        """Fact of the first row's `column`; not available without rows."""
        return self.fact(label, self.rows[column].iloc[0] if self.is_available else None, style)


@dataclass(frozen=True)
class ModelFacts:
    """What the documents need to know of one bundle; in its row, `policy` is cut into policy.costs.review_cost, ..."""

    version: str
    bundle_digest: str
    spec_hash: str
    review_threshold: float
    block_threshold: float
    trained_since: datetime | None
    trained_until: datetime | None
    training_rows: int | None
    training_frauds: int | None
    training_data_hash: str | None
    policy: PolicyBasis | None = None
    contender: str | None = None
    comparison: Comparison | None = None


@dataclass(frozen=True)
class ReportFacts:
    """The content of the compliance report and the model card of one version at one moment.

    `since` is the first transaction's moment, `as_of` the exclusive end of the period.
    """

    as_of: datetime
    since: datetime
    model_version: str
    model: Sourced
    spec: Sourced
    ingestions: Sourced
    months: Sourced
    population: Sourced
    label_delay: Sourced
    quarantine: Sourced
    contenders: Sourced
    evaluation: Sourced
    evaluation_scores: Sourced
    attributions: Sourced
    performance: Sourced
    fairness: Sourced
    drift: Sourced
    parity: Sourced
    promotions: Sourced
    gates: Sourced
    thresholds: Sourced
    rules: Sourced
    lineage: tuple[Evidence, ...]

    def sourced(self) -> Iterator[tuple[str, Sourced]]:
        """Every group of rows by its name, in the order of the fields."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Sourced):
                yield field.name, value

    @property
    def content_hash(self) -> str:
        """SHA-256 over every row, the code behind it and the code that words it: equal facts, equal hash.

        What the event log says of a re-run on unchanged data (run, partition, hash of what that run wrote) does not
        count; only whether an asset has been materialized at all does.
        """
        content = {
            "as_of": self.as_of.isoformat(),
            "since": self.since.isoformat(),
            "model_version": self.model_version,
            "groups": {name: [hash_rows(group.rows), *_origin(group.evidence)] for name, group in self.sourced()},
            "lineage": [[*_origin(evidence)[:3], evidence.data_hash is not None] for evidence in self.lineage],
            "document": document_code_hash(),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def gather_facts(
    session: Session,
    *,
    model: ModelFacts,
    features: FeatureSpec,
    ingestions: Sequence[Ingestion],
    promotions: Sequence[Promotion],
    as_of: datetime,
    materialized: Mapping[str, Evidence],
) -> ReportFacts:
    """Read what the documents of `model` print as of a moment.

    Args:
        features: the spec the model was trained with.
        ingestions, promotions: from the ledger; what is about later moments is left out.
        materialized: latest materialization by asset key, such as "monitoring/drift"; missing ones print as
            NOT AVAILABLE.
    Raises:
        ContractBroken: there is no transaction before `as_of`.
    """

    def asset(key: str, rows: pd.DataFrame, partition: datetime | None = None) -> Sourced:
        known = materialized.get(key) or Evidence(key, None, None, code_version(), None)
        day = f"{partition:%Y-%m-%d}" if partition is not None else known.partition
        return Sourced(rows, replace(known, partition=day, data_hash=hash_rows(rows)))

    def latest(table: tables.Table, key: str) -> Sourced:
        own = "model_version = :version and" if "model_version" in table.columns else ""
        rows = session.query(
            f"select * from {table.name} where {own} day = "
            f"(select max(day) from {table.name} where {own} day < :as_of) order by {', '.join(table.key)}",
            as_of=as_of,
            **({"version": model.version} if own else {}),
        )
        return asset(key, rows, rows["day"].iloc[0].to_pydatetime() if len(rows) else None)

    months = session.query(_MONTHS, as_of=as_of)
    if months.empty:
        raise ContractBroken(
            f"{tables.TRANSACTIONS.name} has no transaction before {as_of:%Y-%m-%d %H:%M}, so there is nothing to "
            "report on. Ingest data first, or choose a later moment: fraud report --as-of MOMENT"
        )
    population = session.query(_POPULATION, as_of=as_of)
    version = {"model_version": model.version}
    evaluation = session.query(_EVALUATION, as_of=as_of, **version)
    evaluation_scores = session.query(
        f"select transaction_id, is_fraud, fraud_probability from {tables.EVALUATION_SCORES.name} "
        f"where model_version = :model_version and as_of = ({_EVALUATED}) order by event_time, transaction_id",
        as_of=as_of,
        **version,
    )
    attributions = session.query(
        f"select * from {tables.ATTRIBUTIONS.name} where model_version = :model_version and as_of = ({_EVALUATED}) "
        "order by mean_absolute_shap desc, feature",
        as_of=as_of,
        **version,
    )
    champion = materialized.get("models/champion") or Evidence("models/champion", None, None, code_version(), None)
    model_evidence = replace(champion, data_hash=model.bundle_digest)
    sources = known_ingestions(ingestions, as_of)
    decided = known_promotions(promotions, ingestions, as_of)
    return ReportFacts(
        as_of=as_of,
        since=population["first_event"].iloc[0].to_pydatetime(),
        model_version=model.version,
        model=Sourced(pd.json_normalize([asdict(replace(model, comparison=None))]), model_evidence),
        spec=_traced_to(asset("features/transaction_features", spec_frame(features)), features.hash),
        ingestions=_ledger("ingestions", _ingestion_rows(sources, as_of)),
        months=asset("raw/transactions", months),
        population=asset("raw/transactions", population),
        label_delay=asset("raw/labels", session.query(_LABEL_DELAY, as_of=as_of)),
        quarantine=asset("raw/transactions", _quarantine_rows(session.query(_QUARANTINE), sources, as_of)),
        contenders=Sourced(_contender_rows(model.comparison), model_evidence),
        evaluation=asset("models/evaluation", evaluation),
        evaluation_scores=asset("models/evaluation", evaluation_scores),
        attributions=asset("models/evaluation", attributions),
        performance=latest(tables.PERFORMANCE, "monitoring/performance"),
        fairness=latest(tables.FAIRNESS, "monitoring/fairness"),
        drift=latest(tables.DRIFT, "monitoring/drift"),
        parity=latest(tables.PARITY, "monitoring/parity"),
        promotions=_ledger("promotions", _promotion_rows(decided)),
        gates=_ledger("promotions", _gate_rows(decided, model.version)),
        thresholds=_code(Path(limits.__file__), pd.DataFrame([_limit_values()])),
        rules=_code(CROSSWALK, _crosswalk_rows()),
        lineage=tuple(materialized.get(key) or Evidence(key, None, None, code_version(), None) for key in LINEAGE),
    )


def _contender_rows(comparison: Comparison | None) -> pd.DataFrame:
    """One row per contender, and on each what all were compared on; empty where nothing was compared."""
    if comparison is None or not comparison.rows:
        return pd.DataFrame()
    return pd.DataFrame([asdict(standing) for standing in comparison.standings]).assign(
        is_winner=[standing.name == comparison.winner for standing in comparison.standings],
        is_within_noise=[standing.is_within_noise for standing in comparison.standings],
        rows=comparison.rows,
        fraud_count=comparison.fraud_count,
        days=comparison.days,
    )


def _traced_to(group: Sourced, data_hash: str) -> Sourced:
    """The same rows, traced to a hash that is known elsewhere (a spec, a bundle)."""
    return Sourced(group.rows, replace(group.evidence, data_hash=data_hash))


def spec_frame(spec: FeatureSpec) -> pd.DataFrame:
    """One row per feature of a spec, with what the dictionary prints."""
    names = ("name", "entity", "unit", "when_empty", "meaning")
    return pd.DataFrame(
        [{name: str(getattr(feature, name) or "") for name in names} for feature in spec.features], columns=list(names)
    )


@cache
def document_code_hash() -> str:
    """Hash of the code that words and lays out documents: other code may print other bytes."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.iterdir()):
        if path.suffix in {".py", ".yml"}:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


_KNOWN = (
    "select transaction_id, is_fraud, row_number() over (partition by transaction_id order by known_at desc) as newest "
    f"from {tables.LABELS.name} where known_at <= :as_of"
)
_MONTHS = (
    f"with known as ({_KNOWN}) "
    "select date_trunc('month', t.event_time) as month, count(*) as rows, count(k.transaction_id) as labelled_rows, "
    "cast(sum(case when k.is_fraud then 1 else 0 end) as bigint) as fraud_count "
    f"from {tables.TRANSACTIONS.name} t left join known k on k.transaction_id = t.transaction_id and k.newest = 1 "
    "where t.event_time < :as_of group by 1 order by 1"
)
_POPULATION = (
    "select count(*) as rows, count(distinct card_id) as cards, count(distinct merchant_id) as merchants, "
    f"min(event_time) as first_event, max(event_time) as last_event from {tables.TRANSACTIONS.name} "
    "where event_time < :as_of"
)
_LABEL_DELAY = (
    "select count(*) as rows, min(days) as shortest, percentile_cont(0.5) within group (order by days) as middle, "
    "max(days) as longest from (select cast(extract(epoch from (known_at - event_time)) as double precision) / 86400 "
    f"as days from {tables.LABELS.name} where known_at <= :as_of) d having count(*) > 0"
)
_QUARANTINE = f"select ingestion_id, reason, count(*) as rows from {tables.QUARANTINE.name} group by 1, 2"
# Moment of the newest evaluation of this version; its metrics stand beside those of others at the same moment.
_EVALUATED = (
    f"select max(as_of) from {tables.EVALUATIONS.name} where model_version = :model_version and as_of <= :as_of"
)
_EVALUATION = f"select * from {tables.EVALUATIONS.name} where as_of = ({_EVALUATED}) order by model_version, metric"
MOST_REASONS = 8


def _origin(evidence: Evidence) -> tuple[str, str, bool, str | None]:
    return evidence.asset, evidence.code_version, evidence.run_id is not None, evidence.data_hash


def _ledger(name: str, rows: pd.DataFrame) -> Sourced:
    return Sourced(rows, Evidence(f"ledger/{name}", None, None, code_version(), hash_rows(rows)))


def _code(path: Path, rows: pd.DataFrame) -> Sourced:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Sourced(rows, Evidence(f"code/{path.name}", None, None, code_version(), digest))


def _ingestion_rows(ingestions: Sequence[Ingestion], as_of: datetime) -> pd.DataFrame:
    """One row per source; counts that reach past `as_of` cannot be cut there and are null."""
    counts = ["rows_read", "rows_loaded", "rows_duplicate", "rows_quarantined", "labels_loaded"]
    columns = ["mapping", "source_name", "content_sha256", *counts, "first_day", "last_day"]
    frame = pd.DataFrame([{name: getattr(row, name) for name in columns} for row in ingestions], columns=columns)
    frame = frame.astype({"first_day": str, "last_day": str, **dict.fromkeys(counts, "Int64")})
    frame.loc[[not is_whole(row, as_of) for row in ingestions], counts] = None
    frame.loc[[not are_labels_whole(row, as_of) for row in ingestions], ["labels_loaded", "last_day"]] = None
    return frame


def _quarantine_rows(counts: pd.DataFrame, ingestions: Sequence[Ingestion], as_of: datetime) -> pd.DataFrame:
    """The most frequent reasons among the sources that lie before `as_of` as a whole."""
    whole = [row.ingestion_id for row in ingestions if is_whole(row, as_of)]
    found = counts[counts["ingestion_id"].isin(whole)].groupby("reason")["rows"].sum().reset_index()
    return found.sort_values(["rows", "reason"], ascending=[False, True]).head(MOST_REASONS).reset_index(drop=True)


def _promotion_rows(promotions: Sequence[Promotion]) -> pd.DataFrame:
    columns = ["promotion_id", "decided_at", "kind", "model_version", "previous_version", "actor", "reason"]
    return pd.DataFrame([{name: getattr(row, name) for name in columns} for row in promotions], columns=columns)


def _gate_rows(promotions: Sequence[Promotion], version: str) -> pd.DataFrame:
    """Gates of the newest decision about `version` that carried gates."""
    for row in reversed(promotions):
        if row.model_version == version and row.gates:
            frame = pd.DataFrame(row.gates).reindex(columns=GATE_COLUMNS)
            return frame.astype({"name": str, "passed": bool})
    return pd.DataFrame(columns=GATE_COLUMNS)


def _limit_values() -> dict[str, float]:
    return {name: value for name, value in vars(limits).items() if name.isupper() and isinstance(value, int | float)}


def _crosswalk_rows() -> pd.DataFrame:
    content = yaml.safe_load(CROSSWALK.read_text("utf-8"))
    rows = pd.DataFrame(content["rules"])[["rule", "effective", "applies", "supports"]]
    rows["supports"] = rows["supports"].map(", ".join)
    return rows.astype({"effective": str}).assign(read_on=str(content["read_on"]), review_by=str(content["review_by"]))
