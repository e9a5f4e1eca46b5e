"""Who becomes champion: gates (gates.py), one decision, one ledger row, and the alias that mirrors it.

The ledger is the truth (rule 9). Every function here stores the version's verified bundle in it, then writes its row,
and moves the registry's alias last: a running service that sees the row finds the bundle (serving/champion_watch.py).
A crash after the row leaves an alias that is one step behind, and the next call of any of them, or of
`mirror_champion`, heals it.
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Literal, Protocol

from fraud_pipelines.errors import NoChampion, PromotionRefused
from fraud_pipelines.ledger.records import Promotion
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.models.gates import Gate
from fraud_pipelines.models.registry import CHAMPION

# Gates that record how a promotion by hand came about; they say nothing about the model.
BY_HAND = ("forced_by_hand", "gates_are_about_present_champion")
Outcome = Literal["promote", "refuse"]


class LedgerRows(Protocol):
    """What promotion needs of the ledger."""

    def record_promotion(self, promotion: Promotion) -> Promotion: ...
    def promotions(self) -> list[Promotion]: ...
    def champion_at(self, moment: datetime | None = None) -> str | None: ...
    def store_bundle(self, version: str, bundle: Bundle) -> None: ...


class Aliases(Protocol):
    """What promotion needs of the registry."""

    def version_of(self, alias: str) -> str | None: ...
    def set_alias(self, alias: str, version: str) -> None: ...
    def clear_alias(self, alias: str) -> None: ...
    def load(self, version: str) -> Bundle: ...


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

    A version that is champion already stays so without a new row, unless `forced`: that renews its review, for as long
    as a first promotion would. `forced` also promotes past failing gates; the row says so with its actor and reason.

    Returns:
        The row: kind 'promote', or 'refuse' when a gate failed (the champion stays).
    Raises:
        PromotionRefused: forced without an actor or a reason.
        UnknownVersion, BundleCorrupt: the version cannot be served; nothing is written.
    """
    require_words(actor, reason)
    mirror_champion(registry, ledger)
    previous = ledger.champion_at()
    bundle = registry.load(str(version))
    if previous == str(version) and not forced:
        ledger.store_bundle(previous, bundle)  # where the row is older than that, or what was stored is damaged
        return next(row for row in reversed(ledger.promotions()) if row.kind != "refuse")
    outcome = decide(gates)
    recorded = list(gates)
    if forced:
        failed = [gate.name for gate in gates if not gate.passed] or ["none"]
        words = f"{actor} promoted by hand; gates that failed: {', '.join(failed)}"
        recorded.append(Gate("forced_by_hand", None, None, True, words))
        outcome = "promote"
    if outcome == "promote":
        ledger.store_bundle(str(version), bundle)
    row = ledger.record_promotion(
        Promotion(
            kind=outcome,
            model_version=str(version),
            previous_version=previous,
            actor=actor,
            reason=reason,
            gates=[asdict(gate) for gate in recorded],
            as_of=as_of,
            bundle_digest=bundle.digest,
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
    if judged and version != present and judged[-1].previous_version != present:
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
    require_words(actor, reason)
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
    bundle = registry.load(to)
    ledger.store_bundle(to, bundle)
    row = ledger.record_promotion(
        Promotion(
            kind="rollback",
            model_version=to,
            previous_version=present,
            actor=actor,
            reason=reason,
            gates=[],
            bundle_digest=bundle.digest,
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
        elif row.kind != "refuse" and line[-1:] != [row.model_version]:  # else its review was renewed
            line.append(row.model_version)
    return line


def require_words(actor: str, reason: str) -> None:
    """Stop where it is not said who decides, or why.

    Raises:
        PromotionRefused: names what is missing.
    """
    missing = [name for name, text in (("actor", actor), ("reason", reason)) if not text.strip()]
    if missing:
        raise PromotionRefused(
            f"Such a decision is recorded with its actor and reason; missing: {' and '.join(missing)}. "
            "Add --actor NAME --reason 'WHY'"
        )
