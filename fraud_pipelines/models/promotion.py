"""Who becomes champion: gates with numbers, one decision, one ledger row, and the alias that mirrors it.

The ledger is the truth (rule 9). Every service here writes its row first and moves the registry's alias after; a crash
in between leaves an alias that is one step behind, and the next call of any of them, or of `mirror_champion`, heals it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol

from fraud_pipelines import limits, tables
from fraud_pipelines.errors import NoChampion, PromotionRefused
from fraud_pipelines.ledger.records import Promotion
from fraud_pipelines.models.evaluation import AVERAGE_PRECISION, RECALL_AT_1PCT, Evaluation
from fraud_pipelines.models.registry import CHAMPION
from fraud_pipelines.warehouse import Session

# Gates that record how a promotion by hand came about; they say nothing about the model.
BY_HAND = ("forced_by_hand", "gates_are_about_present_champion")
Outcome = Literal["promote", "refuse"]


@dataclass(frozen=True)
class Gate:
    """One condition with its number. `value` is None where the condition does not apply or is undefined."""

    name: str
    value: float | None
    limit: float | None
    passed: bool
    words: str


@dataclass(frozen=True)
class GateLimits:
    """What a candidate must reach; defaults and their sources in limits.py."""

    average_precision: float = limits.AVERAGE_PRECISION_FLOOR
    recall_at_1pct_fpr: float = limits.RECALL_FLOOR
    labelled_rows: int = limits.FEWEST_TEST_ROWS
    frauds: int = limits.FEWEST_TEST_FRAUDS
    improvement: float = limits.PROMOTION_MARGIN


@dataclass(frozen=True)
class ServedParity:
    """Served decisions of some days beside the warehouse: how many there were, were compared, and differed.

    `compared` counts decisions, `mismatches` feature values. `first` and `last` are the days looked at.
    """

    first: datetime
    last: datetime
    decisions: int
    compared: int
    mismatches: int

    @property
    def absent_share(self) -> float:
        """Share of the decisions that were not compared, in [0, 1]."""
        return (self.decisions - self.compared) / self.decisions


class ServedRow(Protocol):
    """What a decision tells here: whether features were served with it (a fallback has none)."""

    @property
    def features(self) -> Mapping[str, float | None]: ...


class ServedDecisions(Protocol):
    """What the parity gate needs of the ledger."""

    def decisions(self, since: datetime, until: datetime) -> Sequence[ServedRow]: ...


class LedgerRows(Protocol):
    """What promotion needs of the ledger."""

    def record_promotion(self, promotion: Promotion) -> Promotion: ...
    def promotions(self) -> list[Promotion]: ...
    def champion_at(self, moment: datetime | None = None) -> str | None: ...


class Aliases(Protocol):
    """What promotion needs of the registry."""

    def version_of(self, alias: str) -> str | None: ...
    def set_alias(self, alias: str, version: str) -> None: ...
    def clear_alias(self, alias: str) -> None: ...
    def load(self, version: str) -> object: ...


def promotion_gates(
    candidate: Evaluation,
    champion: Evaluation | None,
    *,
    served: ServedParity | None = None,
    failed_data_checks: Sequence[str] = (),
    gate_limits: GateLimits | None = None,
) -> list[Gate]:
    """Every gate of a candidate, passed or not, in a fixed order.

    Args:
        candidate, champion: evaluations on the same rows; None when there is no champion yet.
        served: what was served beside the warehouse, see `served_parity`; None when nothing was served.
        failed_data_checks: names of blocking data checks that fail now.
    Raises:
        PromotionRefused: the two were not evaluated on the same rows, so nothing can be compared.
    """
    least = gate_limits or GateLimits()
    return [
        _floor("average_precision_reaches_floor", candidate.metrics.get(AVERAGE_PRECISION), least.average_precision),
        _floor("recall_reaches_floor", candidate.metrics.get(RECALL_AT_1PCT), least.recall_at_1pct_fpr),
        _floor("enough_labelled_rows", float(candidate.rows), float(least.labelled_rows)),
        _floor("enough_frauds", float(candidate.fraud_count), float(least.frauds)),
        _improvement(candidate, champion, least.improvement),
        _parity(served),
        Gate(
            "data_checks_pass",
            float(len(failed_data_checks)),
            0.0,
            not failed_data_checks,
            f"failing: {', '.join(failed_data_checks)}" if failed_data_checks else "no blocking data check fails",
        ),
    ]


def served_parity(session: Session, ledger: ServedDecisions, as_of: datetime) -> ServedParity | None:
    """The last PARITY_DAYS days with served features among the PARITY_WINDOW_DAYS before `as_of`, as compared.

    A decision counts as compared when monitoring.parity compared one of its features; one that the warehouse does not
    hold, or whose day was never materialized, does not. None when the ledger has no such decision.
    """
    served: dict[datetime, int] = {}
    # Day by day, because a day's decisions with all their features are as much as should be in memory at once.
    day = (as_of - timedelta(microseconds=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    for offset in range(limits.PARITY_WINDOW_DAYS):
        since = day - timedelta(days=offset)
        decisions = ledger.decisions(since, min(since + timedelta(days=1), as_of))
        count = sum(1 for decision in decisions if decision.features)
        if count:
            served[since] = count
        if len(served) == limits.PARITY_DAYS:
            break
    if not served:
        return None
    first, last = min(served), max(served)
    found = session.query_arrow(
        f"""
        select day, max(compared_count) as compared, sum(mismatch_count) as mismatches
        from {tables.PARITY.name} where day >= :first and day <= :last group by day
        """,
        first=first,
        last=last,
    )
    rows = {row["day"]: row for row in found.to_pylist() if row["day"] in served}
    return ServedParity(
        first=first,
        last=last,
        decisions=sum(served.values()),
        compared=sum(min(int(row["compared"]), served[day]) for day, row in rows.items()),
        mismatches=sum(int(row["mismatches"]) for row in rows.values()),
    )


def decide(gates: Sequence[Gate]) -> Outcome:
    """Promote when every gate passed. No gates at all is a refusal: nothing was shown."""
    return "promote" if gates and all(gate.passed for gate in gates) else "refuse"


def promote(
    registry: Aliases,
    ledger: LedgerRows,
    *,
    version: str,
    gates: Sequence[Gate],
    actor: str,
    reason: str,
    as_of: datetime | None = None,
    forced: bool = False,
) -> Promotion:
    """Decide on a version, write the ledger row, then mirror the champion alias.

    A version that is champion already stays so without a new row. `forced` promotes past failing gates, and the row
    says so with its actor and reason.

    Returns:
        The row: kind 'promote', or 'refuse' when a gate failed (the champion stays).
    Raises:
        PromotionRefused: forced without an actor or a reason.
        UnknownVersion, BundleCorrupt: the version cannot be served; nothing is written.
    """
    _require_words(actor, reason)
    mirror_champion(registry, ledger)
    previous = ledger.champion_at()
    if previous == str(version):
        return next(row for row in reversed(ledger.promotions()) if row.kind != "refuse")
    registry.load(str(version))
    outcome = decide(gates)
    recorded = list(gates)
    if forced:
        failed = [gate.name for gate in gates if not gate.passed] or ["none"]
        words = f"{actor} promoted by hand; gates that failed: {', '.join(failed)}"
        recorded.append(Gate("forced_by_hand", None, None, True, words))
    row = ledger.record_promotion(
        Promotion(
            kind="promote" if forced else outcome,
            model_version=str(version),
            previous_version=previous,
            actor=actor,
            reason=reason,
            gates=[asdict(gate) for gate in recorded],
            as_of=as_of,
        )
    )
    mirror_champion(registry, ledger)
    return row


def promote_by_hand(
    registry: Aliases, ledger: LedgerRows, *, version: str, actor: str, reason: str, force: bool = False
) -> Promotion:
    """Promote a version on the gates the ledger has of it; a refusal is a row, too, and an error.

    Args:
        force: promote although a gate failed, or none was ever measured; the row says so.
    Raises:
        PromotionRefused: a gate failed, or the gates were measured beside another champion than the present one.
        UnknownVersion, BundleCorrupt: the version cannot be served; nothing is written.
    """
    version = str(version)
    judged = [row for row in ledger.promotions() if row.model_version == version and row.gates]
    present = ledger.champion_at()
    gates = [Gate(**gate) for gate in judged[-1].gates if gate["name"] not in BY_HAND] if judged else []
    if judged and judged[-1].previous_version != present:
        before = judged[-1].previous_version or "none"
        words = f"measured beside champion {before}, the champion now is {present or 'none'}"
        gates.append(Gate("gates_are_about_present_champion", None, None, False, words))
    elif not judged:
        gates.append(Gate("gates_are_about_present_champion", None, None, False, "this version was never evaluated"))
    as_of = judged[-1].as_of if judged else None
    row = promote(registry, ledger, version=version, gates=gates, actor=actor, reason=reason, as_of=as_of, forced=force)
    if row.kind == "refuse":
        failed = "; ".join(f"{gate.name}: {gate.words}" for gate in gates if not gate.passed)
        raise PromotionRefused(
            f"Version {version} was not promoted (ledger row {row.promotion_id}): {failed}. The champion stays "
            f"{present or 'none'}. Evaluate it again with: fraud train. To promote all the same, on record: "
            f"fraud promote {version} --force --reason 'WHY'"
        )
    return row


def rollback(registry: Aliases, ledger: LedgerRows, *, actor: str, reason: str, to: str | None = None) -> Promotion:
    """Make an earlier champion champion again; its bundle is verified first, and nothing is trained.

    Args:
        to: a version that was champion before; by default the one before the present champion.
    Raises:
        NoChampion: there is no earlier champion.
        PromotionRefused: `to` never was champion, or is now.
        UnknownVersion, BundleCorrupt: the version cannot be served; nothing is written.
    """
    _require_words(actor, reason)
    history = champions(ledger.promotions())
    present = ledger.champion_at()
    ever = {row.model_version for row in ledger.promotions() if row.kind != "refuse"}
    if present is None:
        raise NoChampion("There is no champion to roll back from. Run: fraud train")
    if to is None:
        if len(history) < 2:
            raise NoChampion(
                f"Version {present} has no champion before it, so there is nothing to roll back to. "
                "Name another version with: fraud promote VERSION --force --reason 'WHY'"
            )
        to = history[-2]
    if to == present or to not in ever:
        raise PromotionRefused(
            f"Version {to} {'is champion already' if to == present else 'never was champion'}; a "
            f"rollback goes to one of {sorted(ever - {present}, key=int) or 'none'}. "
            "For another: fraud promote VERSION --reason 'WHY'"
        )
    registry.load(to)
    row = ledger.record_promotion(
        Promotion(
            kind="rollback",
            model_version=to,
            previous_version=present,
            actor=actor,
            reason=reason,
            gates=[],
        )
    )
    mirror_champion(registry, ledger)
    return row


def mirror_champion(registry: Aliases, ledger: LedgerRows) -> str | None:
    """Make the registry's alias say what the ledger says; returns the champion. Harmless at any time."""
    champion = ledger.champion_at()
    if registry.version_of(CHAMPION) != champion:
        if champion is None:
            registry.clear_alias(CHAMPION)
        else:
            registry.set_alias(CHAMPION, champion)
    return champion


def champions(rows: Sequence[Promotion]) -> list[str]:
    """The line of champions that leads to the present one, oldest first.

    A rollback takes back what came after its version, so a second rollback goes further back instead of returning
    to the version that was just left.
    """
    line: list[str] = []
    for row in rows:
        if row.kind == "rollback" and row.model_version in line:
            del line[line.index(row.model_version) + 1 :]
        elif row.kind != "refuse":
            line.append(row.model_version)
    return line


def _floor(name: str, value: float | None, limit: float) -> Gate:
    if value is None:
        return Gate(name, None, limit, False, f"undefined on this sample; at least {limit:g} is needed")
    return Gate(name, value, limit, value >= limit, f"{value:.6g}, at least {limit:g} is needed")


def _parity(served: ServedParity | None) -> Gate:
    name = "served_features_match"
    if served is None:
        words = f"does not apply: no features were served in the {limits.PARITY_WINDOW_DAYS} days before"
        return Gate(name, None, 0.0, True, words)
    words = (
        f"{served.mismatches} served feature values differ from the warehouse; {served.compared} of {served.decisions} "
        f"decisions from {served.first:%Y-%m-%d} to {served.last:%Y-%m-%d} were compared"
    )
    if served.compared == 0 or served.absent_share > limits.PARITY_ABSENT_SHARE:
        words += (
            f", at most {limits.PARITY_ABSENT_SHARE:.0%} may be missing. Ingest those days, then run: "
            f"fraud materialize monitoring/parity --from {served.first:%Y-%m-%d} --to {served.last:%Y-%m-%d}"
        )
        return Gate(name, float(served.mismatches) if served.compared else None, 0.0, False, words)
    return Gate(name, float(served.mismatches), 0.0, served.mismatches == 0, words)


def _improvement(candidate: Evaluation, champion: Evaluation | None, margin: float) -> Gate:
    name = "improves_on_champion"
    if champion is None:
        return Gate(name, None, margin, True, "does not apply: there is no champion yet")
    same = (
        candidate.scores["transaction_id"]
        .reset_index(drop=True)
        .equals(champion.scores["transaction_id"].reset_index(drop=True))
    )
    if not same:
        raise PromotionRefused(
            f"Candidate and champion must be evaluated on the same rows, found {candidate.rows} and {champion.rows}. "
            "Run: fraud train (it evaluates both)"
        )
    ours, theirs = candidate.metrics.get(AVERAGE_PRECISION), champion.metrics.get(AVERAGE_PRECISION)
    if ours is None or not theirs:
        return Gate(name, None, margin, bool(ours) and not theirs, "champion's or candidate's score is undefined or 0")
    gain = ours / theirs - 1.0
    return Gate(
        name,
        gain,
        margin,
        gain >= margin,
        f"average precision {ours:.4f} against {theirs:.4f} on the same {candidate.rows} rows: {gain:+.2%}, "
        f"at least {margin:+.0%} is needed",
    )


def _require_words(actor: str, reason: str) -> None:
    missing = [name for name, text in (("actor", actor), ("reason", reason)) if not text.strip()]
    if missing:
        raise PromotionRefused(
            f"A promotion is recorded with its actor and reason; missing: {' and '.join(missing)}. "
            "Add --actor NAME --reason 'WHY'"
        )
