"""Probabilities and amounts as people read them."""

from collections.abc import Sequence

from fraud_pipelines.raw.currencies import MINOR_DIGITS

_MOST_DECIMALS = 12


def percentages(probability: float, thresholds: Sequence[float]) -> tuple[str, ...]:
    """The probability, then the thresholds, as percentages such as `29.97 %`.

    The fewest decimals, one at least for the probability, with which the texts compare as the numbers do: a payment
    below a threshold never reads as one that reached it.

    Args:
        probability, thresholds: in [0, 1].
    """
    for decimals in range(1, _MOST_DECIMALS + 1):
        texts = [f"{100 * value:.{decimals}f}" for value in (probability, *thresholds)]
        shown = [float(text) for text in texts]
        if all((shown[0] < limit) == (probability < of) for limit, of in zip(shown[1:], thresholds, strict=True)):
            break
    return (f"{texts[0]} %", *(f"{text.rstrip('0').rstrip('.')} %" for text in texts[1:]))


def money(amount_minor: int, currency: str) -> str:
    """An amount in minor units as `120.50 EUR`."""
    whole, rest = divmod(amount_minor, 10**MINOR_DIGITS)
    return f"{whole}.{rest:0{MINOR_DIGITS}d} {currency}"
