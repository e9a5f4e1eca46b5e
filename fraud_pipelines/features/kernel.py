"""The compiled loops of the feature engine: one function per measure, each over all asked transactions at once.

Rows are sorted by entity, then time. A window is a pair of row numbers per asked transaction, [low, high), which never
crosses an entity. Whole numbers stay exact; the last expression of each measure has the operand order of the SQL macro
of the same name, so the doubles are the same to the last bit. `empty` is what a measure of nothing is: 0.0 or NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Codes = NDArray[np.int32]
Double = NDArray[np.float64]
Flags = NDArray[np.bool_]

EARTH_RADIUS_KM = 6371.0088
RADIANS_PER_DEGREE = 0.017453292519943295
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
_MINUTE_US = 60_000_000.0
_32 = np.uint64(32)
_LOW_32 = np.uint64(0xFFFFFFFF)

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile to machine code, kept on disk beside the module: a process pays for it once."""
    return cast(Function, numba.njit(cache=True, nogil=True)(function))


@compiled
def running(values: Int64) -> Int64:
    """Total of all rows before each row number, in whole numbers; one more entry than rows."""
    out = np.zeros(len(values) + 1, np.int64)
    for row in range(len(values)):
        out[row + 1] = out[row] + values[row]
    return out


@compiled
def nights_and_weekends(times: Int64) -> tuple[Int64, Int64]:
    """Running totals of the rows at night and on a weekend, UTC."""
    nights, weekends = np.zeros(len(times) + 1, np.int64), np.zeros(len(times) + 1, np.int64)
    for row in range(len(times)):
        nights[row + 1] = nights[row] + (times[row] // HOUR_US % 24 <= 6)
        # 1970-01-01 was a Thursday: 3 days after Monday.
        weekends[row + 1] = weekends[row] + ((times[row] // DAY_US + 3) % 7 >= 5)
    return nights, weekends


@compiled
def rows_after(times: Int64, starts: Int64, asked_times: Int64, asked_starts: Int64, age_us: int) -> Int64:
    """For each asked transaction the first row of its entity whose age is below `age_us`; the entity's end without one."""
    found = np.empty(len(asked_times), np.int64)
    for entity in range(len(starts) - 1):
        row, end = starts[entity], starts[entity + 1]
        for asked in range(asked_starts[entity], asked_starts[entity + 1]):
            while row < end and times[row] <= asked_times[asked] - age_us:
                row += 1
            found[asked] = row
    return found


@compiled
def total(prefix: Int64, low: Int64, high: Int64, divisor: float) -> Double:
    """Difference of running totals, divided once."""
    out = np.empty(len(low))
    for i in range(len(low)):
        out[i] = np.float64(prefix[high[i]] - prefix[low[i]]) / divisor
    return out


@compiled
def mean(prefix: Int64, low: Int64, high: Int64, empty: float) -> Double:
    """Mean in major units."""
    out = np.empty(len(low))
    for i in range(len(low)):
        n = high[i] - low[i]
        out[i] = np.float64(prefix[high[i]] - prefix[low[i]]) / (100.0 * np.float64(n)) if n > 0 else empty
    return out


@compiled
def share(part: Int64, whole: Int64, low: Int64, high: Int64, empty: float) -> Double:
    """One running total in another."""
    out = np.empty(len(low))
    for i in range(len(low)):
        n = whole[high[i]] - whole[low[i]]
        out[i] = np.float64(part[high[i]] - part[low[i]]) / np.float64(n) if n > 0 else empty
    return out


@compiled
def ratio_to_mean(amount: Int64, sums: Int64, counts: Int64, low: Int64, high: Int64, empty: float) -> Double:
    """Amount over the mean of the window, while that is positive."""
    out = np.empty(len(low))
    for i in range(len(low)):
        s = sums[high[i]] - sums[low[i]]
        n = counts[high[i]] - counts[low[i]]
        out[i] = np.float64(amount[i]) * np.float64(n) / np.float64(s) if s > 0 else empty
    return out


@compiled
def _product(a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """High and low 64 bits of the product."""
    a_high, a_low, b_high, b_low = a >> _32, a & _LOW_32, b >> _32, b & _LOW_32
    low = a_low * b_low
    first = a_high * b_low + (low >> _32)
    second = a_low * b_high + (first & _LOW_32)
    return a_high * b_high + (first >> _32) + (second >> _32), (second << _32) | (low & _LOW_32)


@compiled
def _rounded(high: np.uint64, low: np.uint64) -> float:
    """The double nearest to high * 2^64 + low: rounded once, as Python's float(int) does."""
    if high == 0:
        return np.float64(low)
    bits = np.uint64(0)
    rest = high
    while rest != 0:
        rest >>= np.uint64(1)
        bits += np.uint64(1)
    kept = low >> bits
    if bits < np.uint64(64):
        kept |= high << (np.uint64(64) - bits)
        lost = low & ((np.uint64(1) << bits) - np.uint64(1))
    else:
        kept = high
        lost = low
    if lost != 0:
        kept |= np.uint64(1)  # far below the last bit of a double: it only breaks a tie
    return np.float64(kept) * math.pow(2.0, np.float64(bits))


@compiled
def spread(n: int, s: int, squares_high: int, squares_low: int) -> float:
    """n * sum(x^2) - sum(x)^2, exact in 128 bits and rounded once; the squares come as a * 2^32 + b."""
    q_high = np.uint64(squares_high) >> _32
    q_low = np.uint64(squares_high) << _32
    with_low = q_low + np.uint64(squares_low)
    if with_low < q_low:
        q_high += np.uint64(1)
    high, low = _product(np.uint64(n), with_low)
    high += np.uint64(n) * q_high
    s_high, s_low = _product(np.uint64(s), np.uint64(s))
    borrow = np.uint64(1) if low < s_low else np.uint64(0)
    return _rounded(high - s_high - borrow, low - s_low)


@compiled
def std(sums: Int64, highs: Int64, lows: Int64, low: Int64, high: Int64, empty: float) -> Double:
    """Sample standard deviation in major units, from two rows on."""
    out = np.empty(len(low))
    for i in range(len(low)):
        a, b = low[i], high[i]
        n = b - a
        if n > 1:
            d = spread(n, sums[b] - sums[a], highs[b] - highs[a], lows[b] - lows[a])
            out[i] = math.sqrt(d / np.float64(n * (n - 1))) / 100.0
        else:
            out[i] = empty
    return out


@compiled
def zscore(
    amount: Int64, sums: Int64, highs: Int64, lows: Int64, low: Int64, high: Int64, empty: float
) -> Double:  # fmt: skip
    """Standard deviations between the amount and the mean, while the deviation is positive."""
    out = np.empty(len(low))
    for i in range(len(low)):
        a, b = low[i], high[i]
        n = b - a
        out[i] = empty
        if n > 1:
            s = sums[b] - sums[a]
            d = spread(n, s, highs[b] - highs[a], lows[b] - lows[a])
            if d > 0.0:
                distance = np.float64(n * amount[i] - s) / np.float64(n)
                out[i] = distance / math.sqrt(d / np.float64(n * (n - 1)))
    return out


@compiled
def largest(values: Double, low: Int64, high: Int64, empty: float) -> Double:
    """Largest value of each window; NaN values do not count. Windows move forward, so a row enters and leaves once."""
    out = np.empty(len(low))
    # Rows that may still become the largest: ascending row numbers, descending values.
    queue = np.empty(len(values), np.int64)
    head, tail, row = 0, 0, 0
    for i in range(len(low)):
        if row < low[i]:
            row = low[i]
        while row < high[i]:
            if not math.isnan(values[row]):
                while tail > head and values[queue[tail - 1]] <= values[row]:
                    tail -= 1
                queue[tail] = row
                tail += 1
            row += 1
        while head < tail and queue[head] < low[i]:
            head += 1
        out[i] = values[queue[head]] if head < tail else empty
    return out


@compiled
def distinct(codes: Codes, low: Int64, high: Int64, empty: float) -> Double:
    """Different codes of each window; -1 is null and does not count."""
    out = np.empty(len(low))
    held = np.zeros(codes.max() + 2 if len(codes) else 1, np.int32)
    different, first, row = 0, 0, 0
    for i in range(len(low)):
        while row < high[i]:
            code = codes[row]
            if code >= 0:
                if held[code] == 0:
                    different += 1
                held[code] += 1
            row += 1
        while first < low[i]:
            code = codes[first]
            if code >= 0:
                held[code] -= 1
                if held[code] == 0:
                    different -= 1
            first += 1
        out[i] = different if different > 0 else empty
    return out


@compiled
def same(codes: Codes, own: Codes, low: Int64, high: Int64) -> Double:
    """Rows of each window with the asked transaction's code; -1 where that is null."""
    out = np.empty(len(low))
    size = max(codes.max() if len(codes) else -1, own.max() if len(own) else -1)
    held = np.zeros(size + 2, np.int64)
    first, row = 0, 0
    for i in range(len(low)):
        while row < high[i]:
            if codes[row] >= 0:
                held[codes[row]] += 1
            row += 1
        while first < low[i]:
            if codes[first] >= 0:
                held[codes[first]] -= 1
            first += 1
        out[i] = held[own[i]] if own[i] >= 0 else -1
    return out


@compiled
def is_new(codes: Codes, own: Codes, low: Int64, high: Int64, empty: float) -> Double:
    """1 where no row of the window has the asked transaction's code."""
    out = same(codes, own, low, high)
    for i in range(len(out)):
        out[i] = empty if out[i] < 0 else 1.0 if out[i] == 0 else 0.0
    return out


@compiled
def is_changed(codes: Codes, own: Codes, low: Int64, high: Int64, empty: float) -> Double:
    """1 where the last row of the window has another code."""
    out = np.empty(len(low))
    for i in range(len(low)):
        last = high[i] - 1
        if last < low[i] or own[i] < 0 or codes[last] < 0:
            out[i] = empty
        else:
            out[i] = 1.0 if codes[last] != own[i] else 0.0
    return out


@compiled
def latest(flags: Flags) -> Int64:
    """For each row number n the last flagged row below n, -1 without one; one more entry than rows."""
    out = np.empty(len(flags) + 1, np.int64)
    last = -1
    out[0] = -1
    for row in range(len(flags)):
        if flags[row]:
            last = row
        out[row + 1] = last
    return out


@compiled
def minutes_since(
    times: Int64, last: Int64, asked_times: Int64, low: Int64, high: Int64, empty: float
) -> Double:  # fmt: skip
    """Minutes since the last flagged row of the window."""
    out = np.empty(len(low))
    for i in range(len(low)):
        row = last[high[i]]
        out[i] = np.float64(asked_times[i] - times[row]) / _MINUTE_US if row >= low[i] else empty
    return out


@compiled
def kilometres(latitude: float, longitude: float, to_latitude: float, to_longitude: float) -> float:
    """Great-circle distance (haversine); NaN when any coordinate is."""
    p = math.sin((to_latitude - latitude) * RADIANS_PER_DEGREE / 2.0)
    m = math.sin((to_longitude - longitude) * RADIANS_PER_DEGREE / 2.0)
    h = p * p + math.cos(latitude * RADIANS_PER_DEGREE) * math.cos(to_latitude * RADIANS_PER_DEGREE) * (m * m)
    if h > 1.0:
        h = 1.0
    return 2.0 * EARTH_RADIUS_KM * math.asin(math.sqrt(h))


@compiled
def distance_from_last(
    latitude: Double, longitude: Double, own_latitude: Double, own_longitude: Double,
    low: Int64, high: Int64, empty: float,
) -> Double:  # fmt: skip
    """Kilometres from the place of the last row of the window."""
    out = np.empty(len(low))
    for i in range(len(low)):
        last = high[i] - 1
        out[i] = empty
        if last >= low[i]:
            found = kilometres(latitude[last], longitude[last], own_latitude[i], own_longitude[i])
            if not math.isnan(found):
                out[i] = found
    return out


@compiled
def speed_from_last(
    distance: Double, times: Int64, asked_times: Int64, low: Int64, high: Int64, empty: float
) -> Double:  # fmt: skip
    """That distance per hour since the last row, which is always earlier."""
    out = np.empty(len(low))
    for i in range(len(low)):
        if high[i] > low[i] and not math.isnan(distance[i]):
            out[i] = distance[i] / (np.float64(asked_times[i] - times[high[i] - 1]) / np.float64(HOUR_US))
        else:
            out[i] = empty
    return out


@compiled
def own_ratios(
    times: Int64, starts: Int64, amounts: Int64, sums: Int64, baseline_us: int, at_least: int, limit_tenths: int
) -> tuple[Double, Flags]:
    """Each row's amount over the mean of its own baseline, NaN where undefined, and whether it is above the limit."""
    ratios = np.empty(len(amounts))
    is_large = np.zeros(len(amounts), np.bool_)
    low, high = rows_after(times, starts, times, starts, baseline_us), rows_after(times, starts, times, starts, 1)
    for i in range(len(amounts)):
        n = high[i] - low[i]
        s = sums[high[i]] - sums[low[i]]
        ratios[i] = np.nan
        if n >= at_least and s > 0:
            ratios[i] = np.float64(amounts[i]) * np.float64(n) / np.float64(s)
            is_large[i] = amounts[i] * n * 10 > limit_tenths * s
    return ratios, is_large


@compiled
def unlabelled(
    first_label: Int64, by_label: Int64, starts: Int64, asked_times: Int64, asked_starts: Int64, low: Int64, high: Int64
) -> Double:  # fmt: skip
    """Rows of each window without a label by then. `by_label` holds each entity's rows in the order of their first one."""
    out = np.empty(len(low))
    is_labelled = np.zeros(len(first_label), np.bool_)
    for entity in range(len(starts) - 1):
        first, end = starts[entity], starts[entity + 1]
        arrival, labelled = first, 0
        for i in range(asked_starts[entity], asked_starts[entity + 1]):
            while first < low[i]:
                if is_labelled[first]:
                    labelled -= 1
                first += 1
            while arrival < end and first_label[by_label[arrival]] <= asked_times[i]:
                row = by_label[arrival]
                is_labelled[row] = True
                if row >= first:
                    labelled += 1
                arrival += 1
            out[i] = high[i] - low[i] - labelled
    return out


@compiled
def moments(
    starts: Int64, times: Int64, is_fraud: Int64, amounts: Int64
) -> tuple[Int64, Int64, Int64, Int64, Int64]:  # fmt: skip
    """Label arrivals added up per entity and moment, so that labels known together count together.

    Returns starts, moments, labels, frauds, and the amounts of the genuine ones.
    """
    new_starts = np.zeros(len(starts), np.int64)
    at, genuine_amounts = np.empty(len(times), np.int64), np.zeros(len(times), np.int64)
    labels, frauds = np.zeros(len(times), np.int64), np.zeros(len(times), np.int64)
    row = -1
    for entity in range(len(starts) - 1):
        for i in range(starts[entity], starts[entity + 1]):
            if i == starts[entity] or times[i] != times[i - 1]:
                row += 1
                at[row] = times[i]
            labels[row] += 1
            frauds[row] += is_fraud[i]
            genuine_amounts[row] += (1 - is_fraud[i]) * amounts[i]
        new_starts[entity + 1] = row + 1
    end = row + 1
    return new_starts, at[:end], labels[:end], frauds[:end], genuine_amounts[:end]


@compiled
def last_is_fraud(frauds: Int64, low: Int64, high: Int64, empty: float) -> Double:
    """1 when the last moment of the window has a fraud label. `frauds` counts them per moment."""
    out = np.empty(len(low))
    for i in range(len(low)):
        out[i] = empty if high[i] == low[i] else 1.0 if frauds[high[i] - 1] > 0 else 0.0
    return out


@compiled
def streak(fraud_prefix: Int64, last_genuine: Int64, low: Int64, high: Int64) -> Double:
    """Fraud labels after the last moment with a genuine one."""
    out = np.empty(len(low))
    for i in range(len(low)):
        begin = max(low[i], last_genuine[high[i]] + 1)
        out[i] = fraud_prefix[high[i]] - fraud_prefix[begin]
    return out


@compiled
def streak_minutes(
    times: Int64, last_genuine: Int64, asked_times: Int64, low: Int64, high: Int64, empty: float
) -> Double:  # fmt: skip
    """Minutes since the first moment of the streak: every moment after the last genuine one has nothing but fraud."""
    out = np.empty(len(low))
    for i in range(len(low)):
        begin = max(low[i], last_genuine[high[i]] + 1)
        out[i] = np.float64(asked_times[i] - times[begin]) / _MINUTE_US if begin < high[i] else empty
    return out
