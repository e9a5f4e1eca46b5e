"""What to simulate."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta

from fraud_pipelines.errors import SettingInvalid

DRIFT_KINDS = ("amounts", "mix", "fraud_pattern")
# Consonants that look like no digit.
_LETTERS = str.maketrans("0123456789abcdef", "bcdfghjkmnpqrtvz")


@dataclass(frozen=True)
class SimulationConfig:
    """One simulated world; the same configuration gives the same bytes.

    `drift_from` is the first day that differs: `amounts` rise by 35 %, the `mix` moves to online and abroad, the
    `fraud_pattern` changes to quiet account take-overs and more compromised merchants, half as much fraud again. What
    comes before that day is as it is without drift, identifiers included; no two worlds share an identifier otherwise.
    Cards and merchants depend on the seed and their numbers alone, so a later start continues with the same ones.
    """

    start: date = date(2026, 6, 1)
    days: int = 90
    seed: int = 7
    cards: int = 2_000
    merchants: int = 1_500
    transactions: int | None = None  # about as many; None: 0.833 a card and day, 150,000 by default
    fraud_share: float = 0.0075
    maturity_days: int = 7
    drift_from: date | None = None
    drift_kinds: tuple[str, ...] = ("amounts", "mix")

    def __post_init__(self) -> None:
        limits = {
            "days": (1, 3650), "cards": (20, 5_000_000), "merchants": (100, 1_000_000), "seed": (0, 2**32 - 1),
            "fraud_share": (0.0, 0.2), "maturity_days": (1, 365), "transactions": (100, 50_000_000),
        }  # fmt: skip
        for name, (lowest, highest) in limits.items():
            value = getattr(self, name)
            if value is not None and not lowest <= value <= highest:
                raise SettingInvalid(f"simulation {name}: expected {lowest} to {highest}, found {value}.")
        if unknown := sorted(set(self.drift_kinds) - set(DRIFT_KINDS)):
            raise SettingInvalid(f"simulation drift_kinds: expected some of {', '.join(DRIFT_KINDS)}, found {unknown}.")
        if self.drift_from and not self.start <= self.drift_from < self.end:
            raise SettingInvalid(
                f"simulation drift_from: expected a day from {self.start} to before {self.end}, "
                f"found {self.drift_from}."
            )

    @property
    def end(self) -> date:
        """The day after the last one."""
        return self.start + timedelta(days=self.days)

    @property
    def settled(self) -> "SimulationConfig":
        """The same world without drift."""
        return replace(self, drift_from=None, drift_kinds=())

    @property
    def days_before_drift(self) -> int:
        """Whole days that are as they are without drift; all of them when there is none."""
        return (self.drift_from - self.start).days if self.drift_from and self.drift_kinds else self.days

    @property
    def digest(self) -> str:
        """Eight letters that stand for the whole configuration; kinds of a drift that never comes do not count."""
        meant = self if self.drift_from and self.drift_kinds else self.settled
        text = json.dumps(asdict(meant), sort_keys=True, default=str)
        return letters_of(hashlib.sha256(text.encode()).hexdigest()[:8])

    @property
    def transaction_count(self) -> int:
        """Transactions aimed at, fraud included."""
        return self.transactions or round(self.days * self.cards * 0.8333)

    def drift_second(self, kind: str) -> float:
        """Second since the start from which `kind` drifts; infinity when it never does."""
        if self.drift_from is None or kind not in self.drift_kinds:
            return float("inf")
        return (self.drift_from - self.start).days * 86_400.0


def letters_of(hexadecimal: str) -> str:
    """Hexadecimal digits as letters: a name without digits can never be taken for a card number."""
    return hexadecimal.translate(_LETTERS)
