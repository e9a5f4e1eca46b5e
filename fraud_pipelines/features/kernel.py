"""The compiled loops of the feature engine: one function per measure, each over all asked transactions at once.

Where few transactions of an entity are asked (`compute_held`), running totals over its whole history would cost more
than they save: there each asked transaction looks back through its own windows, with the same last expressions.

Rows are sorted by entity, then time. A window is a pair of row numbers per asked transaction, [low, high), which never
crosses an entity. Whole numbers stay exact; the last expression of each measure has the operand order of the SQL macro
of the same name, so the doubles are the same to the last bit. `empty` is what a measure of nothing is: 0.0 or NaN.

Compiled functions are in one file with every function and constant they use: the compiler's cache on disk looks at a
function's own file alone, and would go on with the old machine code when another one has changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum
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
NIGHT_US = 7 * HOUR_US
"""A day begins with its night: the hours 0 to 6."""
_MINUTE_US = 60_000_000.0
_32 = np.uint64(32)
_LOW_32 = np.uint64(0xFFFFFFFF)
# Up to so many asked transactions of an entity each looks back on its own.
_COUNTED_ONE_BY_ONE = 16
# Lines of the arrays of Blocks: where an owner's rows are, and what rows of transactions and of label arrivals hold.
START, SIZE, CAPACITY = 0, 1, 2
TIME, AMOUNT, FIRST_LABEL, IS_FRAUD = 0, 1, 2, 2
NEVER_US = np.iinfo(np.int64).max
"""First label of a transaction that has none."""
# Entities whose rows are brought near at once: more would push each other out of the nearest caches.
_ENTITIES_AT_ONCE = 16
# Codes below it are counted in one array, which is there for the whole call.
_USUAL_CODES = 1_024

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile to machine code, kept on disk beside the module: a process pays for it once."""
    return cast(Function, numba.njit(cache=True, nogil=True)(function))


@compiled
def running(values: Int64 | Flags) -> Int64:
    """Total of all rows before each row number, in whole numbers; one more entry than rows."""
    out = np.zeros(len(values) + 1, np.int64)
    for row in range(len(values)):
        out[row + 1] = out[row] + values[row]
    return out


@compiled
def grouped(groups: Codes | Int64, count: int) -> tuple[Int64, Int64]:
    """The order that puts rows of one group beside each other, else as they are; and where each group starts."""
    starts = np.zeros(count + 1, np.int64)
    for row in range(len(groups)):
        starts[groups[row] + 1] += 1
    for group in range(count):
        starts[group + 1] += starts[group]
    place = starts[:-1].copy()
    order = np.empty(len(groups), np.int64)
    for row in range(len(groups)):
        order[place[groups[row]]] = row
        place[groups[row]] += 1
    return order, starts


@compiled
def is_night(time_us: int) -> bool:
    """Whether it is in the first 7 hours of a day, UTC."""
    return time_us % DAY_US < NIGHT_US


@compiled
def is_weekend(time_us: int) -> bool:
    """Whether it is on a Saturday or Sunday, UTC: see days_of_week."""
    return (time_us + 3 * DAY_US) % (7 * DAY_US) >= 5 * DAY_US


@compiled
def hours(times: Int64) -> Int64:
    """Hour of the day, UTC."""
    return times // HOUR_US % 24


@compiled
def days_of_week(times: Int64) -> Int64:
    """0 is Monday. 1970-01-01 was a Thursday: 3 days after one."""
    return (times // DAY_US + 3) % 7


@compiled
def totals(times: Int64, amounts: Int64) -> tuple[Int64, Int64, Int64, Int64, Int64]:
    """As `running`, of the amounts, of their squares (high and low 32 bits), and of the rows at night, at weekends."""
    end = len(times) + 1
    sums, high, low = np.zeros(end, np.int64), np.zeros(end, np.int64), np.zeros(end, np.int64)
    nights, weekends = np.zeros(end, np.int64), np.zeros(end, np.int64)
    for row in range(len(times)):
        square = amounts[row] * amounts[row]
        sums[row + 1] = sums[row] + amounts[row]
        high[row + 1] = high[row] + (square >> 32)
        low[row + 1] = low[row] + (square & 0xFFFFFFFF)
        nights[row + 1] = nights[row] + is_night(times[row])
        weekends[row + 1] = weekends[row] + is_weekend(times[row])
    return sums, high, low, nights, weekends


@compiled
def rows_after(times: Int64, starts: Int64, asked_times: Int64, asked_starts: Int64, age_us: int) -> Int64:
    """For each asked transaction the first row of its entity younger than `age_us`; the entity's end without one.

    It looks ahead in steps that double and then halve: few asked rows skip long histories, many lose nothing.
    """
    found = np.empty(len(asked_times), np.int64)
    for entity in range(len(starts) - 1):
        row, end = starts[entity], starts[entity + 1]
        for asked in range(asked_starts[entity], asked_starts[entity + 1]):
            latest_us = asked_times[asked] - age_us
            step = 1
            while row + step <= end and times[row + step - 1] <= latest_us:
                row += step
                step *= 2
            while step > 1:
                step //= 2
                if row + step <= end and times[row + step - 1] <= latest_us:
                    row += step
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
def _mean(s: int, n: int, empty: float) -> float:
    return np.float64(s) / (100.0 * np.float64(n)) if n > 0 else empty


@compiled
def mean(prefix: Int64, low: Int64, high: Int64, empty: float) -> Double:
    """Mean in major units."""
    out = np.empty(len(low))
    for i in range(len(low)):
        out[i] = _mean(prefix[high[i]] - prefix[low[i]], high[i] - low[i], empty)
    return out


@compiled
def _share(part: int, whole: int, empty: float) -> float:
    return np.float64(part) / np.float64(whole) if whole > 0 else empty


@compiled
def share(part: Int64, whole: Int64, low: Int64, high: Int64, empty: float) -> Double:
    """One running total in another."""
    out = np.empty(len(low))
    for i in range(len(low)):
        out[i] = _share(part[high[i]] - part[low[i]], whole[high[i]] - whole[low[i]], empty)
    return out


@compiled
def _ratio_to_mean(amount: int, s: int, n: int, empty: float) -> float:
    return np.float64(amount) * np.float64(n) / np.float64(s) if s > 0 else empty


@compiled
def ratio_to_mean(amount: Int64, sums: Int64, counts: Int64, low: Int64, high: Int64, empty: float) -> Double:
    """Amount over the mean of the window, while that is positive."""
    out = np.empty(len(low))
    for i in range(len(low)):
        s = sums[high[i]] - sums[low[i]]
        out[i] = _ratio_to_mean(amount[i], s, counts[high[i]] - counts[low[i]], empty)
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
def _std(n: int, s: int, squares_high: int, squares_low: int, empty: float) -> float:
    return math.sqrt(spread(n, s, squares_high, squares_low) / np.float64(n * (n - 1))) / 100.0 if n > 1 else empty


@compiled
def std(sums: Int64, highs: Int64, lows: Int64, low: Int64, high: Int64, empty: float) -> Double:
    """Sample standard deviation in major units, from two rows on."""
    out = np.empty(len(low))
    for i in range(len(low)):
        a, b = low[i], high[i]
        out[i] = _std(b - a, sums[b] - sums[a], highs[b] - highs[a], lows[b] - lows[a], empty)
    return out


@compiled
def _zscore(amount: int, n: int, s: int, squares_high: int, squares_low: int, empty: float) -> float:
    if n > 1:
        d = spread(n, s, squares_high, squares_low)
        if d > 0.0:
            distance = np.float64(n * amount - s) / np.float64(n)
            return distance / math.sqrt(d / np.float64(n * (n - 1)))
    return empty


@compiled
def zscore(
    amount: Int64, sums: Int64, highs: Int64, lows: Int64, low: Int64, high: Int64, empty: float
) -> Double:  # fmt: skip
    """Standard deviations between the amount and the mean, while the deviation is positive."""
    out = np.empty(len(low))
    for i in range(len(low)):
        a, b = low[i], high[i]
        out[i] = _zscore(amount[i], b - a, sums[b] - sums[a], highs[b] - highs[a], lows[b] - lows[a], empty)
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
        if row == low[i] and (i + 1 == len(low) or low[i + 1] >= high[i]):  # no other window has these rows
            best = -math.inf
            for value in values[row : high[i]]:
                if value > best:
                    best = value
            out[i] = best if best > -math.inf else empty
            continue
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
def distinct(codes: Codes, size: int, low: Int64, high: Int64, empty: float) -> Double:
    """Different codes of each window, all below `size`; -1 is null and does not count."""
    out = np.empty(len(low))
    held = np.zeros(size, np.int32)
    different, first, row = 0, 0, 0
    for i in range(len(low)):
        while first < min(row, low[i]):
            code = codes[first]
            if code >= 0:
                held[code] -= 1
                if held[code] == 0:
                    different -= 1
            first += 1
        if row < low[i]:  # rows between two windows are in none
            first = row = low[i]
        while row < high[i]:
            code = codes[row]
            if code >= 0:
                if held[code] == 0:
                    different += 1
                held[code] += 1
            row += 1
        out[i] = different if different > 0 else empty
    return out


@compiled
def same(codes: Codes, own: Codes, size: int, low: Int64, high: Int64) -> Double:
    """Rows of each window with the asked transaction's code, all below `size`; -1 where that is null."""
    out = np.empty(len(low))
    held = np.zeros(size, np.int64)
    first, row = 0, 0
    for i in range(len(low)):
        while first < min(row, low[i]):
            if codes[first] >= 0:
                held[codes[first]] -= 1
            first += 1
        if row < low[i]:  # rows between two windows are in none
            first = row = low[i]
        while row < high[i]:
            if codes[row] >= 0:
                held[codes[row]] += 1
            row += 1
        out[i] = held[own[i]] if own[i] >= 0 else -1
    return out


@compiled
def is_new(codes: Codes, own: Codes, size: int, low: Int64, high: Int64, empty: float) -> Double:
    """1 where no row of the window has the asked transaction's code."""
    out = same(codes, own, size, low, high)
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
    """Great-circle distance; NaN when any coordinate is.

    From the haversines of the distance to the place and to the place opposite it on the globe: the first alone loses
    half its digits far away, the second alone nearby.
    """
    p = math.sin((to_latitude - latitude) * RADIANS_PER_DEGREE / 2.0)
    o = math.sin((to_latitude + latitude) * RADIANS_PER_DEGREE / 2.0)
    c = math.cos(latitude * RADIANS_PER_DEGREE) * math.cos(to_latitude * RADIANS_PER_DEGREE)
    m = math.sin((to_longitude - longitude) * RADIANS_PER_DEGREE / 2.0)
    n = math.cos((to_longitude - longitude) * RADIANS_PER_DEGREE / 2.0)
    return 2.0 * EARTH_RADIUS_KM * math.atan2(math.sqrt(p * p + c * (m * m)), math.sqrt(o * o + c * (n * n)))


@compiled
def distances(latitude: Double, longitude: Double, to_latitude: Double, to_longitude: Double) -> Double:
    """Kilometres between pairs of places."""
    out = np.empty(len(latitude))
    for i in range(len(latitude)):
        out[i] = kilometres(latitude[i], longitude[i], to_latitude[i], to_longitude[i])
    return out


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
def is_above(amount: int, n: int, s: int, at_least: int, limit_tenths: int) -> bool:
    """Whether an amount is above the limit times the mean of n amounts of sum s; never of too few, or of 0."""
    return n >= at_least and s > 0 and amount * n * 10 > limit_tenths * s


@compiled
def own_ratios(
    times: Int64, starts: Int64, amounts: Int64, sums: Int64, baseline_us: int, at_least: int, limit_tenths: int
) -> tuple[Double, Flags]:
    """Each row's amount over the mean of its own baseline, NaN where undefined, and whether it is above the limit."""
    ratios = np.empty(len(amounts))
    is_large = np.zeros(len(amounts), np.bool_)
    if baseline_us == 0:  # nobody asks
        return ratios, is_large
    low, high = rows_after(times, starts, times, starts, baseline_us), rows_after(times, starts, times, starts, 1)
    for i in range(len(amounts)):
        n = high[i] - low[i]
        s = sums[high[i]] - sums[low[i]]
        ratios[i] = np.nan
        if n >= at_least and s > 0:
            ratios[i] = np.float64(amounts[i]) * np.float64(n) / np.float64(s)
            is_large[i] = is_above(amounts[i], n, s, at_least, limit_tenths)
    return ratios, is_large


@compiled
def unlabelled(
    first_label: Int64, starts: Int64, asked_times: Int64, asked_starts: Int64, low: Int64, high: Int64
) -> Double:  # fmt: skip
    """Rows of each window without a label by then."""
    out = np.empty(len(low))
    for entity in range(len(starts) - 1):
        begin, end = asked_starts[entity], asked_starts[entity + 1]
        if end - begin > _COUNTED_ONE_BY_ONE:
            _unlabelled_in_order(
                first_label, starts[entity], starts[entity + 1], asked_times, begin, end, low, high, out
            )
        else:  # cheaper than the order of the labels
            for i in range(begin, end):
                count = 0
                for first_us in first_label[low[i] : high[i]]:
                    count += first_us > asked_times[i]
                out[i] = count
    return out


@compiled
def _unlabelled_in_order(
    first_label: Int64, first: int, end: int,
    asked_times: Int64, asked_begin: int, asked_end: int, low: Int64, high: Int64, out: Double,
) -> None:  # fmt: skip
    """The same for many asked transactions of one entity: labels arrive one after the other, rows leave likewise."""
    by_label = np.argsort(first_label[first:end])
    is_labelled = np.zeros(end - first, np.bool_)
    start, arrival, labelled = first, 0, 0
    for i in range(asked_begin, asked_end):
        while first < low[i]:
            if is_labelled[first - start]:
                labelled -= 1
            first += 1
        while arrival < len(by_label) and first_label[start + by_label[arrival]] <= asked_times[i]:
            row = by_label[arrival]
            is_labelled[row] = True
            if start + row >= first:
                labelled += 1
            arrival += 1
        out[i] = high[i] - low[i] - labelled


@compiled
def ordinary_frauds(
    label_starts: Int64, label_times: Int64, is_fraud: Int64, label_amounts: Int64,
    times: Int64, starts: Int64, sums: Int64, baseline_us: int, at_least: int, limit_tenths: int,
) -> Flags:  # fmt: skip
    """Which label arrivals are frauds not above the limit of their entity's baseline before they count."""
    is_ordinary = np.zeros(len(label_times), np.bool_)
    if baseline_us == 0:  # nobody asks
        return is_ordinary
    low = rows_after(times, starts, label_times, label_starts, baseline_us)
    high = rows_after(times, starts, label_times, label_starts, 1)
    for i in range(len(label_times)):
        n, s = high[i] - low[i], sums[high[i]] - sums[low[i]]
        is_ordinary[i] = is_fraud[i] == 1 and not is_above(label_amounts[i], n, s, at_least, limit_tenths)
    return is_ordinary


@compiled
def by_moment(
    starts: Int64, times: Int64, is_fraud: Int64, is_ordinary: Flags, amounts: Int64
) -> tuple[Int64, Int64, Int64, Int64, Int64, Int64]:  # fmt: skip
    """Label arrivals added up per entity and moment, so that labels known together count together.

    Returns starts, moments, labels, frauds, the ordinary ones of these, and the amounts of the genuine labels.
    """
    new_starts = np.zeros(len(starts), np.int64)
    at, genuine_amounts = np.empty(len(times), np.int64), np.zeros(len(times), np.int64)
    labels, frauds = np.zeros(len(times), np.int64), np.zeros(len(times), np.int64)
    ordinary = np.zeros(len(times), np.int64)
    row = -1
    for entity in range(len(starts) - 1):
        for i in range(starts[entity], starts[entity + 1]):
            if i == starts[entity] or times[i] != times[i - 1]:
                row += 1
                at[row] = times[i]
            labels[row] += 1
            frauds[row] += is_fraud[i]
            ordinary[row] += is_ordinary[i]
            genuine_amounts[row] += (1 - is_fraud[i]) * amounts[i]
        new_starts[entity + 1] = row + 1
    end = row + 1
    return new_starts, at[:end], labels[:end], frauds[:end], ordinary[:end], genuine_amounts[:end]


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


@compiled
def scatter(values: Double, lines: Int64, matrix: Double) -> None:
    """matrix[lines] = values.T, one line of the matrix after the other."""
    for column in range(len(lines)):
        for row in range(len(values)):
            matrix[lines[column], row] = values[row, column]


@compiled
def gather(matrix: Double, lines: Int64) -> Double:
    """matrix[lines].T, with contiguous rows."""
    out = np.empty((matrix.shape[1], len(lines)))
    for column in range(len(lines)):
        for row in range(len(out)):
            out[row, column] = matrix[lines[column], row]
    return out


class Op(IntEnum):
    """One per (measure, of) of the spec that has its own loop."""

    COUNT = 0
    COUNT_SAME = 1
    COUNT_LARGE = 2
    COUNT_UNLABELLED = 3
    SUM = 4
    MEAN = 5
    STD = 6
    MAX = 7
    MAX_RATIO = 8
    MIN = 9
    RATIO_TO_MEAN = 10
    ZSCORE = 11
    SHARE_OF_NIGHT = 12
    SHARE_OF_WEEKEND = 13
    DISTINCT = 14
    IS_NEW = 15
    IS_CHANGED = 16
    SINCE_TRANSACTION = 17
    SINCE_LARGE = 18
    DISTANCE = 19
    SPEED = 20
    # From here on over label arrivals.
    COUNT_LABELS = 21
    COUNT_FRAUDS = 22
    SHARE_OF_FRAUDS = 23
    LAST_LABEL = 24
    STREAK = 25
    STREAK_AGE = 26
    SINCE_FRAUD = 27
    SINCE_GENUINE = 28
    RATIO_TO_GENUINE = 29
    COUNT_ORDINARY = 30
    SINCE_ORDINARY = 31


@compiled
def compute(
    plan: Int64, widths: Int64, empties: Double,
    baseline_us: int, label_baseline_us: int, at_least: int, limit_tenths: int,
    starts: Int64, times: Int64, amounts: Int64, first_label: Int64, codes: Codes,
    latitude: Double, longitude: Double,
    label_starts: Int64, label_times: Int64, label_frauds: Int64, label_amounts: Int64,
    asked_starts: Int64, asked: Int64, asked_amounts: Int64, asked_codes: Codes,
    asked_latitude: Double, asked_longitude: Double,
) -> Double:  # fmt: skip
    """Every feature of a plan: see EntityEngine.compute, which makes the plan.

    One line of `plan` per feature: its Op, the number of its window in `widths`, the line of `codes` it is about.
    `baseline_us` is for own ratios, `label_baseline_us` for ordinary frauds; 0 where no feature asks. `widths` ascend.
    """
    rows = np.arange(len(times) + 1)
    sums, squares_high, squares_low, nights, weekends = totals(times, amounts)
    values = amounts.astype(np.float64)
    sizes = np.zeros(len(codes), np.int64)  # of arrays with a place for each code
    for attribute in range(len(codes)):
        most = max(codes[attribute].max() if len(times) else -1, asked_codes[attribute].max() if len(asked) else -1)
        sizes[attribute] = most + 1
    ratios, is_large = own_ratios(times, starts, amounts, sums, baseline_us, at_least, limit_tenths)
    large = running(is_large)
    last_large = latest(is_large)

    is_ordinary = ordinary_frauds(
        label_starts, label_times, label_frauds, label_amounts,
        times, starts, sums, label_baseline_us, at_least, limit_tenths,
    )  # fmt: skip
    moment_starts, moments, labels, frauds, ordinary, genuine_amounts = by_moment(
        label_starts, label_times, label_frauds, is_ordinary, label_amounts
    )
    label_sums, fraud_sums = running(labels), running(frauds)
    genuine_sums, genuine_amount_sums = label_sums - fraud_sums, running(genuine_amounts)
    last_fraud, last_genuine = latest(frauds > 0), latest(labels > frauds)
    ordinary_sums, last_ordinary = running(ordinary), latest(ordinary > 0)

    # A transaction counts from an age of 1 microsecond on, a label from 0 on.
    present = rows_after(times, starts, asked, asked_starts, 1)
    label_present = rows_after(moments, moment_starts, asked, asked_starts, 0)
    edges = np.empty((len(widths), len(asked)), np.int64)
    label_edges = np.empty((len(widths), len(asked)), np.int64)
    for w in range(len(widths)):
        edges[w] = rows_after(times, starts, asked, asked_starts, widths[w])
        label_edges[w] = rows_after(moments, moment_starts, asked, asked_starts, widths[w])

    out = np.empty((len(plan), len(asked)))
    for i in range(len(plan)):
        op, window, attribute = plan[i]
        empty = empties[i]
        is_of_labels = op >= Op.COUNT_LABELS
        low, high = (label_edges[window], label_present) if is_of_labels else (edges[window], present)
        if op == Op.COUNT:
            out[i] = total(rows, low, high, 1.0)
        elif op == Op.SUM:
            out[i] = total(sums, low, high, 100.0)
        elif op == Op.MEAN:
            out[i] = mean(sums, low, high, empty)
        elif op == Op.STD:
            out[i] = std(sums, squares_high, squares_low, low, high, empty)
        elif op == Op.ZSCORE:
            out[i] = zscore(asked_amounts, sums, squares_high, squares_low, low, high, empty)
        elif op == Op.MAX:
            out[i] = largest(values, low, high, empty * 100.0) / 100.0
        elif op == Op.MIN:
            out[i] = largest(-values, low, high, empty * -100.0) / -100.0
        elif op == Op.RATIO_TO_MEAN:
            out[i] = ratio_to_mean(asked_amounts, sums, rows, low, high, empty)
        elif op == Op.SHARE_OF_NIGHT:
            out[i] = share(nights, rows, low, high, empty)
        elif op == Op.SHARE_OF_WEEKEND:
            out[i] = share(weekends, rows, low, high, empty)
        elif op == Op.DISTINCT:
            out[i] = distinct(codes[attribute], sizes[attribute], low, high, empty)
        elif op == Op.COUNT_SAME:
            out[i] = same(codes[0], asked_codes[0], sizes[0], low, high)
        elif op == Op.IS_NEW:
            out[i] = is_new(codes[attribute], asked_codes[attribute], sizes[attribute], low, high, empty)
        elif op == Op.IS_CHANGED:
            out[i] = is_changed(codes[attribute], asked_codes[attribute], low, high, empty)
        elif op == Op.SINCE_TRANSACTION:
            out[i] = minutes_since(times, rows - 1, asked, low, high, empty)
        elif op == Op.DISTANCE:
            out[i] = distance_from_last(latitude, longitude, asked_latitude, asked_longitude, low, high, empty)
        elif op == Op.SPEED:
            away = distance_from_last(latitude, longitude, asked_latitude, asked_longitude, low, high, math.nan)
            out[i] = speed_from_last(away, times, asked, low, high, empty)
        elif op == Op.MAX_RATIO:
            out[i] = largest(ratios, low, high, empty)
        elif op == Op.COUNT_LARGE:
            out[i] = total(large, low, high, 1.0)
        elif op == Op.SINCE_LARGE:
            out[i] = minutes_since(times, last_large, asked, low, high, empty)
        elif op == Op.COUNT_UNLABELLED:
            out[i] = unlabelled(first_label, starts, asked, asked_starts, low, high)
        elif op == Op.COUNT_LABELS:
            out[i] = total(label_sums, low, high, 1.0)
        elif op == Op.COUNT_FRAUDS:
            out[i] = total(fraud_sums, low, high, 1.0)
        elif op == Op.SHARE_OF_FRAUDS:
            out[i] = share(fraud_sums, label_sums, low, high, empty)
        elif op == Op.LAST_LABEL:
            out[i] = last_is_fraud(frauds, low, high, empty)
        elif op == Op.STREAK:
            out[i] = streak(fraud_sums, last_genuine, low, high)
        elif op == Op.STREAK_AGE:
            out[i] = streak_minutes(moments, last_genuine, asked, low, high, empty)
        elif op == Op.SINCE_FRAUD:
            out[i] = minutes_since(moments, last_fraud, asked, low, high, empty)
        elif op == Op.SINCE_GENUINE:
            out[i] = minutes_since(moments, last_genuine, asked, low, high, empty)
        elif op == Op.RATIO_TO_GENUINE:
            out[i] = ratio_to_mean(asked_amounts, genuine_amount_sums, genuine_sums, low, high, empty)
        elif op == Op.COUNT_ORDINARY:
            out[i] = total(ordinary_sums, low, high, 1.0)
        elif op == Op.SINCE_ORDINARY:
            out[i] = minutes_since(moments, last_ordinary, asked, low, high, empty)
    return out


# Lines of what one asked transaction finds in each window, shortest first: places where its rows begin, and totals.
_BEGIN, _SUM, _SQUARES_HIGH, _SQUARES_LOW, _MOST, _LEAST, _LARGE = 0, 1, 2, 3, 4, 5, 6
_LABEL_BEGIN, _FRAUDS, _GENUINE_AMOUNTS, _ORDINARY = 7, 8, 9, 10


@compiled
def _look_back(now_us: int, widths: Int64, begin: int, present: int, numbers: Int64, windows: Int64) -> None:
    """Where the transactions of each window begin, and the totals and extremes of their amounts."""
    row, s, high, low = present, 0, 0, 0
    most, least = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    for w in range(len(widths)):
        oldest_us = now_us - widths[w]
        while row > begin and numbers[TIME, row - 1] > oldest_us:
            row -= 1
            amount = numbers[AMOUNT, row]
            square = amount * amount
            s += amount
            high += square >> 32
            low += square & 0xFFFFFFFF
            most, least = max(most, amount), min(least, amount)
        windows[_BEGIN, w], windows[_SUM, w], windows[_SQUARES_HIGH, w], windows[_SQUARES_LOW, w] = row, s, high, low
        windows[_MOST, w], windows[_LEAST, w] = most, least


@compiled
def _look_back_at_labels(
    now_us: int, widths: Int64, begin: int, present: int, labels: Int64, windows: Int64
) -> tuple[int, int]:  # fmt: skip
    """Where the labels of each window begin, its frauds and its genuine amounts.

    Returns the places of the last fraud and of the last genuine label of the longest window, -1 without.
    """
    row, frauds, genuine_amounts = present, 0, 0
    last_fraud, last_genuine = -1, -1
    for w in range(len(widths)):
        oldest_us = now_us - widths[w]
        while row > begin and labels[TIME, row - 1] > oldest_us:
            row -= 1
            if labels[IS_FRAUD, row]:
                frauds += 1
                last_fraud = max(last_fraud, row)
            else:
                genuine_amounts += labels[AMOUNT, row]
                last_genuine = max(last_genuine, row)
        windows[_LABEL_BEGIN, w], windows[_FRAUDS, w], windows[_GENUINE_AMOUNTS, w] = row, frauds, genuine_amounts
    return last_fraud, last_genuine


@compiled
def _earlier_baseline(
    at_us: int, baseline_us: int, begin: int, low: int, high: int, s: int, numbers: Int64
) -> tuple[int, int, int]:  # fmt: skip
    """The rows [low, high) of the baseline of a moment and the sum of their amounts, from those of a later moment."""
    while low > begin and numbers[TIME, low - 1] > at_us - baseline_us:
        low -= 1
        s += numbers[AMOUNT, low]
    while high > low and numbers[TIME, high - 1] >= at_us:
        high -= 1
        s -= numbers[AMOUNT, high]
    return low, high, s


@compiled
def _look_back_for_large(
    longest: int, baseline_us: int, at_least: int, limit_tenths: int,
    begin: int, present: int, numbers: Int64, windows: Int64, most_ratios: Double,
) -> int:  # fmt: skip
    """Large amounts and the largest own ratio of each window up to number `longest`; returns the last large row or -1.

    See own_ratios.
    """
    row, low, high, s = present, present, present, 0
    last, large, most_ratio = -1, 0, -math.inf
    for w in range(longest + 1):
        while row > windows[_BEGIN, w]:
            row -= 1
            low, high, s = _earlier_baseline(numbers[TIME, row], baseline_us, begin, low, high, s, numbers)
            n, amount = high - low, numbers[AMOUNT, row]
            if n >= at_least and s > 0:
                most_ratio = max(most_ratio, np.float64(amount) * np.float64(n) / np.float64(s))
                if is_above(amount, n, s, at_least, limit_tenths):
                    large += 1
                    last = max(last, row)
        windows[_LARGE, w], most_ratios[w] = large, most_ratio
    return last


@compiled
def _look_back_for_ordinary(
    longest: int, baseline_us: int, at_least: int, limit_tenths: int,
    begin: int, present: int, label_present: int, numbers: Int64, labels: Int64, windows: Int64,
) -> int:  # fmt: skip
    """Ordinary frauds of each window up to number `longest`; returns the place of the last or -1.

    See ordinary_frauds.
    """
    row, low, high, s = label_present, present, present, 0
    last, ordinary = -1, 0
    for w in range(longest + 1):
        while row > windows[_LABEL_BEGIN, w]:
            row -= 1
            if labels[IS_FRAUD, row]:
                low, high, s = _earlier_baseline(labels[TIME, row], baseline_us, begin, low, high, s, numbers)
                if not is_above(labels[AMOUNT, row], high - low, s, at_least, limit_tenths):
                    ordinary += 1
                    last = max(last, row)
        windows[_ORDINARY, w] = ordinary
    return last


@compiled
def _largest_code(codes: Codes) -> int:
    largest_code = -1
    for code in codes:
        largest_code = max(largest_code, code)
    return largest_code


@compiled
def _count_distinct(codes: Codes, seen: Int64, number: int) -> int:
    """Different codes; -1 does not count. `seen` has a place for each code, none of which is `number` yet."""
    count = 0
    for code in codes:
        if code >= 0 and seen[code] != number:
            seen[code] = number
            count += 1
    return count


@compiled
def _count_same(codes: Codes, own: int) -> int:
    count = 0
    for code in codes:
        count += code == own
    return count


@compiled
def _count_after(times: Int64, moment_us: int) -> int:
    count = 0
    for time_us in times:
        count += time_us > moment_us
    return count


@compiled
def _count_nights(times: Int64) -> int:
    count = 0
    for time_us in times:
        count += is_night(time_us)
    return count


@compiled
def _count_weekends(times: Int64) -> int:
    count = 0
    for time_us in times:
        count += is_weekend(time_us)
    return count


@compiled
def _minutes(now_us: int, since_us: int) -> float:
    return np.float64(now_us - since_us) / _MINUTE_US


@compiled
def _longest(plan: Int64, one: int, another: int, third: int) -> int:
    """Number of the longest window of the features with one of these operations; -1 without such a feature."""
    longest = -1
    for feature in range(len(plan)):
        op = plan[feature, 0]
        if op in (one, another, third):
            longest = max(longest, plan[feature, 1])
    return longest


@compiled
def _touched(values: Int64 | Codes, step: int) -> int:
    """Read something of each line of the processor's caches: many come at once, where a sum would wait for each."""
    s = 0
    for row in range(0, len(values), step):
        s += values[row]
    return s


@compiled
def _look_back_from_each(
    plan: Int64, widths: Int64, empties: Double,
    baseline_us: int, label_baseline_us: int, at_least: int, limit_tenths: int,
    owners: Int64, spans: Int64, numbers: Int64, codes: Codes, places: Double, label_spans: Int64, labels: Int64,
    asked_starts: Int64, asked: Int64, asked_amounts: Int64, asked_codes: Codes,
    asked_latitude: Double, asked_longitude: Double,
    matrix: Double, lines: Int64, columns: Int64,
) -> None:  # fmt: skip
    """What compute_held says, for the entities of which few transactions are asked.

    A longer window goes on where the shorter one began, so the totals of all take one look at each row.
    """
    windows, most_ratios = np.zeros((11, len(widths)), np.int64), np.zeros(len(widths))
    longest_large = _longest(plan, Op.COUNT_LARGE, Op.SINCE_LARGE, Op.MAX_RATIO)
    longest_ordinary = _longest(plan, Op.COUNT_ORDINARY, Op.SINCE_ORDINARY, Op.SINCE_ORDINARY)
    longest_place = _longest(plan, Op.DISTANCE, Op.SPEED, Op.SPEED)
    seen = np.zeros(_USUAL_CODES, np.int64)
    touched = np.zeros(1, np.int64)
    for entity in range(len(owners)):
        if entity % _ENTITIES_AT_ONCE == 0:
            for owner in owners[entity : entity + _ENTITIES_AT_ONCE]:
                begin, end = spans[START, owner], spans[START, owner] + spans[SIZE, owner]
                touched[0] += _touched(numbers[TIME, begin:end], 8) + _touched(numbers[AMOUNT, begin:end], 8)
                touched[0] += _touched(numbers[FIRST_LABEL, begin:end], 8)
                for attribute in range(len(codes)):
                    touched[0] += _touched(codes[attribute, begin:end], 16)
                begin, end = label_spans[START, owner], label_spans[START, owner] + label_spans[SIZE, owner]
                touched[0] += _touched(labels[TIME, begin:end], 8) + _touched(labels[IS_FRAUD, begin:end], 8)
                touched[0] += _touched(labels[AMOUNT, begin:end], 8)
        owner = owners[entity]
        begin, end = spans[START, owner], spans[START, owner] + spans[SIZE, owner]
        label_begin, label_end = label_spans[START, owner], label_spans[START, owner] + label_spans[SIZE, owner]
        a, b = asked_starts[entity], asked_starts[entity + 1]
        if b - a > _COUNTED_ONE_BY_ONE:
            continue
        for i in range(a, b):
            present, label_present = end, label_end
            while present > begin and numbers[TIME, present - 1] >= asked[i]:
                present -= 1
            while label_present > label_begin and labels[TIME, label_present - 1] > asked[i]:
                label_present -= 1
            now_us, amount = asked[i], asked_amounts[i]
            _look_back(now_us, widths, begin, present, numbers, windows)
            last_fraud, last_genuine = _look_back_at_labels(now_us, widths, label_begin, label_present, labels, windows)
            last_large = _look_back_for_large(
                longest_large, baseline_us, at_least, limit_tenths, begin, present, numbers, windows, most_ratios
            )  # fmt: skip
            last_ordinary = _look_back_for_ordinary(
                longest_ordinary, label_baseline_us, at_least, limit_tenths,
                begin, present, label_present, numbers, labels, windows,
            )  # fmt: skip
            last = present - 1
            away = math.nan
            if longest_place >= 0 and last >= windows[_BEGIN, longest_place]:
                away = kilometres(places[0, last], places[1, last], asked_latitude[i], asked_longitude[i])
            # The streak begins after the last moment with a genuine label: a fraud known with that is not of it.
            streak = last_genuine + 1
            while last_genuine >= 0 and streak < label_present and labels[TIME, streak] == labels[TIME, last_genuine]:
                streak += 1

            for feature in range(len(plan)):
                op, w, attribute = plan[feature, 0], plan[feature, 1], plan[feature, 2]
                empty = empties[feature]
                low = windows[_BEGIN, w] if op < Op.COUNT_LABELS else windows[_LABEL_BEGIN, w]
                n = (present if op < Op.COUNT_LABELS else label_present) - low
                value = empty
                if op == Op.COUNT or op == Op.COUNT_LABELS:
                    value = np.float64(n)
                elif op == Op.SUM:
                    value = np.float64(windows[_SUM, w]) / 100.0
                elif op == Op.MEAN:
                    value = _mean(windows[_SUM, w], n, empty)
                elif op == Op.STD:
                    value = _std(n, windows[_SUM, w], windows[_SQUARES_HIGH, w], windows[_SQUARES_LOW, w], empty)
                elif op == Op.ZSCORE:
                    value = _zscore(
                        amount, n, windows[_SUM, w], windows[_SQUARES_HIGH, w], windows[_SQUARES_LOW, w], empty
                    )
                elif op == Op.MAX:
                    if n > 0:
                        value = np.float64(windows[_MOST, w]) / 100.0
                elif op == Op.MIN:
                    if n > 0:
                        value = np.float64(windows[_LEAST, w]) / 100.0
                elif op == Op.RATIO_TO_MEAN:
                    value = _ratio_to_mean(amount, windows[_SUM, w], n, empty)
                elif op == Op.SHARE_OF_NIGHT:
                    value = _share(_count_nights(numbers[TIME, low:present]), n, empty)
                elif op == Op.SHARE_OF_WEEKEND:
                    value = _share(_count_weekends(numbers[TIME, low:present]), n, empty)
                elif op == Op.DISTINCT:
                    of = codes[attribute, low:present]
                    if _largest_code(of) >= len(seen):
                        seen = np.zeros(2 * _largest_code(of), np.int64)
                    different = _count_distinct(of, seen, i * len(plan) + feature + 1)
                    if different > 0:
                        value = np.float64(different)
                elif op == Op.COUNT_SAME:
                    own = asked_codes[0, i]
                    value = np.float64(_count_same(codes[0, low:present], own)) if own >= 0 else -1.0
                elif op == Op.IS_NEW:
                    own = asked_codes[attribute, i]
                    if own >= 0:
                        value = 1.0 if _count_same(codes[attribute, low:present], own) == 0 else 0.0
                elif op == Op.IS_CHANGED:
                    own = asked_codes[attribute, i]
                    if n > 0 and own >= 0 and codes[attribute, last] >= 0:
                        value = 1.0 if codes[attribute, last] != own else 0.0
                elif op == Op.SINCE_TRANSACTION:
                    if n > 0:
                        value = _minutes(now_us, numbers[TIME, last])
                elif op == Op.DISTANCE:
                    if n > 0 and not math.isnan(away):
                        value = away
                elif op == Op.SPEED:
                    if n > 0 and not math.isnan(away):
                        value = away / (np.float64(now_us - numbers[TIME, last]) / np.float64(HOUR_US))
                elif op == Op.COUNT_LARGE:
                    value = np.float64(windows[_LARGE, w])
                elif op == Op.MAX_RATIO:
                    if most_ratios[w] > -math.inf:
                        value = most_ratios[w]
                elif op == Op.SINCE_LARGE:
                    if last_large >= low:
                        value = _minutes(now_us, numbers[TIME, last_large])
                elif op == Op.COUNT_UNLABELLED:
                    value = np.float64(_count_after(numbers[FIRST_LABEL, low:present], now_us))
                elif op == Op.COUNT_FRAUDS:
                    value = np.float64(windows[_FRAUDS, w])
                elif op == Op.SHARE_OF_FRAUDS:
                    value = _share(windows[_FRAUDS, w], n, empty)
                elif op == Op.LAST_LABEL:
                    if n > 0:  # labels known together count together
                        latest_us = labels[TIME, label_present - 1]
                        value = 1.0 if last_fraud >= 0 and labels[TIME, last_fraud] == latest_us else 0.0
                elif op == Op.STREAK:
                    value = np.float64(label_present - max(low, streak))
                elif op == Op.STREAK_AGE:
                    if max(low, streak) < label_present:
                        value = _minutes(now_us, labels[TIME, max(low, streak)])
                elif op == Op.SINCE_FRAUD:
                    if last_fraud >= low:
                        value = _minutes(now_us, labels[TIME, last_fraud])
                elif op == Op.SINCE_GENUINE:
                    if last_genuine >= low:
                        value = _minutes(now_us, labels[TIME, last_genuine])
                elif op == Op.RATIO_TO_GENUINE:
                    value = _ratio_to_mean(amount, windows[_GENUINE_AMOUNTS, w], n - windows[_FRAUDS, w], empty)
                elif op == Op.SINCE_ORDINARY:
                    if last_ordinary >= low:
                        value = _minutes(now_us, labels[TIME, last_ordinary])
                elif op == Op.COUNT_ORDINARY:
                    value = np.float64(windows[_ORDINARY, w])
                matrix[lines[i], columns[feature]] = value


@compiled
def compute_held(
    plan: Int64, widths: Int64, empties: Double,
    baseline_us: int, label_baseline_us: int, at_least: int, limit_tenths: int,
    owners: Int64, spans: Int64, numbers: Int64, codes: Codes, places: Double, label_spans: Int64, labels: Int64,
    asked_starts: Int64, asked: Int64, asked_amounts: Int64, asked_codes: Codes,
    asked_latitude: Double, asked_longitude: Double,
    matrix: Double, lines: Int64, columns: Int64,
) -> None:  # fmt: skip
    """matrix[lines, columns] = the features of the asked transactions as of `compute`, where Blocks hold the histories.

    `owners` are the numbers of the entities; `spans`, `numbers`, `codes` and `places` those of their transactions,
    `label_spans` and `labels` of their label arrivals. Running totals over all of a history pay off where many of one
    entity are asked; for each of a few it is cheaper to look back through its windows.
    """
    for entity in range(len(owners)):
        owner = owners[entity]
        begin, end = spans[START, owner], spans[START, owner] + spans[SIZE, owner]
        label_begin, label_end = label_spans[START, owner], label_spans[START, owner] + label_spans[SIZE, owner]
        a, b = asked_starts[entity], asked_starts[entity + 1]
        if b - a > _COUNTED_ONE_BY_ONE:
            found = compute(
                plan, widths, empties, baseline_us, label_baseline_us, at_least, limit_tenths,
                np.array([0, end - begin]), numbers[TIME, begin:end], numbers[AMOUNT, begin:end],
                numbers[FIRST_LABEL, begin:end], np.ascontiguousarray(codes[:, begin:end]),
                places[0, begin:end] if len(places) else places.reshape(-1),
                places[1, begin:end] if len(places) else places.reshape(-1),
                np.array([0, label_end - label_begin]), labels[TIME, label_begin:label_end],
                labels[IS_FRAUD, label_begin:label_end], labels[AMOUNT, label_begin:label_end],
                np.array([0, b - a]), asked[a:b], asked_amounts[a:b], np.ascontiguousarray(asked_codes[:, a:b]),
                asked_latitude[a:b], asked_longitude[a:b],
            )  # fmt: skip
            for feature in range(len(found)):
                for i in range(b - a):
                    matrix[lines[a + i], columns[feature]] = found[feature, i]
    _look_back_from_each(
        plan, widths, empties, baseline_us, label_baseline_us, at_least, limit_tenths,
        owners, spans, numbers, codes, places, label_spans, labels,
        asked_starts, asked, asked_amounts, asked_codes, asked_latitude, asked_longitude, matrix, lines, columns,
    )  # fmt: skip


@compiled
def lacks_room(owners: Int64, spans: Int64) -> Flags:
    """Which of some new rows would find the block of their owner full, were all added in order; see Blocks."""
    is_lacking = np.zeros(len(owners), np.bool_)
    for row in range(len(owners)):
        spans[SIZE, owners[row]] += 1
        is_lacking[row] = spans[SIZE, owners[row]] > spans[CAPACITY, owners[row]]
    for row in range(len(owners)):
        spans[SIZE, owners[row]] -= 1
    return is_lacking


@compiled
def append(
    owners: Int64, new_times: Int64, new_amounts: Int64, new_codes: Codes, new_places: Double,
    newest: Int64, spans: Int64, numbers: Int64, codes: Codes, places: Double, label_spans: Int64, labels: Int64,
) -> tuple[Int64, Flags]:  # fmt: skip
    """Add transactions to their owners' blocks, which have room, where they come after all that are there.

    Where each was put, -1 of one that is not later than the `newest` of its owner, and which may have a label already:
    a label counts after its transaction, so one that came late has an owner whose last label arrival is later than it.
    """
    at = np.full(len(owners), -1, np.int64)
    may_have_label = np.zeros(len(owners), np.bool_)
    for row in range(len(owners)):
        owner, time = owners[row], new_times[row]
        if time <= newest[owner]:
            continue
        place = spans[START, owner] + spans[SIZE, owner]
        numbers[TIME, place], numbers[AMOUNT, place], numbers[FIRST_LABEL, place] = time, new_amounts[row], NEVER_US
        for attribute in range(len(codes)):
            codes[attribute, place] = new_codes[attribute, row]
        for line in range(len(places)):
            places[line, place] = new_places[line, row]
        last = label_spans[START, owner] + label_spans[SIZE, owner] - 1
        may_have_label[row] = label_spans[SIZE, owner] > 0 and labels[TIME, last] > time
        spans[SIZE, owner] += 1
        newest[owner] = time
        at[row] = place
    return at, may_have_label
