"""Who challenges the champion: one ledger row says which version is compared with it, from when, and on which cards.

As with promotions (promotion.py) the ledger is the truth, and the bundle is in it before the row: running services
follow the row (serving/champion_watch.py). The registry's alias `challenger` is the training's own: it names the
candidate of the last training, which the gates judge, whatever is being compared on live payments.
"""

from typing import Protocol

from fraud_pipelines.errors import NoChampion, PromotionRefused
from fraud_pipelines.ledger.records import Challenge, CurrentChallenger
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.models.promotion import require_words


class LedgerRows(Protocol):
    """What a challenge needs of the ledger."""

    def champion_at(self) -> str | None: ...
    def challenger(self) -> CurrentChallenger | None: ...
    def record_challenge(self, challenge: Challenge) -> Challenge: ...
    def store_bundle(self, version: str, bundle: Bundle) -> None: ...


class Bundles(Protocol):
    """What a challenge needs of the registry."""

    def load(self, version: str) -> Bundle: ...


def challenge(
    registry: Bundles, ledger: LedgerRows, *, version: str, canary_percent: float = 0.0, actor: str, reason: str
) -> Challenge:
    """Compare a version with the champion on every payment from now on; it replaces the challenger before it.

    Args:
        canary_percent: share of cards that it decides on, in [0, 100].
    Raises:
        NoChampion: there is none to compare with.
        PromotionRefused: the version is champion, reads other features than the champion, or something is not said.
        UnknownVersion, BundleCorrupt: the version cannot be served; nothing is written.
    """
    require_words(actor, reason)
    if not 0 <= canary_percent <= 100:
        raise PromotionRefused(f"A canary takes 0 to 100 percent of the cards; found {canary_percent:g}.")
    champion = ledger.champion_at()
    if champion is None:
        raise NoChampion("There is no champion to compare a challenger with. Run: fraud train")
    if champion == str(version):
        raise PromotionRefused(
            f"Version {version} is champion already. Name another: fraud challenge VERSION --reason 'WHY'"
        )
    bundle, present = registry.load(str(version)), registry.load(champion)
    if bundle.spec_hash != present.spec_hash:
        raise PromotionRefused(
            f"Version {version} reads the features of spec {bundle.spec_hash[:12]}, champion {champion} those of "
            f"{present.spec_hash[:12]}; both are needed of each payment, and a service computes one. Judge it on past "
            f"payments instead: fraud backtest --version {version} --from DAY --to DAY"
        )
    ledger.store_bundle(str(version), bundle)
    return ledger.record_challenge(Challenge(str(version), bundle.digest, float(canary_percent), actor, reason))


def end_challenge(ledger: LedgerRows, *, actor: str, reason: str) -> Challenge:
    """Compare nothing with the champion any more; it decides on every card again.

    Returns:
        The row, which names no version.
    Raises:
        PromotionRefused: there is no challenger, or something is not said.
    """
    require_words(actor, reason)
    if ledger.challenger() is None:
        raise PromotionRefused("There is no challenger to stop. Name one: fraud challenge VERSION --reason 'WHY'")
    return ledger.record_challenge(Challenge(None, None, 0.0, actor, reason))
