"""The index of the log against a plain list of what was added."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_pipelines.online_store import hash_index
from fraud_pipelines.online_store.hash_index import HashIndex

# Of tables of four lines, with eight buckets: the same bucket and another hash, the same hash, the largest one.
HASHES = (0, 1, 8, 9, 16, 17, 2**32 - 8, 2**32 - 1)
# Lines of one call, each with how far its number lies beyond the one before: rows in between may have been deleted.
BATCHES = st.lists(
    st.lists(st.tuples(st.sampled_from(HASHES), st.sampled_from((1, 1, 1, 2, 5, 2**33))), max_size=9), max_size=9
)


@pytest.fixture
def small_tables(monkeypatch):
    """Tables of four lines."""
    monkeypatch.setattr(hash_index, "_TABLE_LINES", 4)


@pytest.mark.usefixtures("small_tables")
@pytest.mark.parametrize("many", [1, 3, 100])
def test_every_line_of_a_hash_is_found_and_no_other(many, monkeypatch):
    monkeypatch.setattr(hash_index, "_MANY", many)

    @given(BATCHES, st.integers(0, 2**35), st.data())
    def check(batches, before, data):
        index, lines = HashIndex(), []
        number = before
        for batch in batches:
            added = []
            for hashed, step in batch:
                number += step
                added.append((number, hashed))
            lines += added
            index.add(np.array([h for _, h in added], np.uint32), np.array([n for n, _ in added], np.int64))
        expected = {h: [n for n, other in reversed(lines) if other == h] for h in HASHES}
        assert {h: index.find(h) for h in HASHES} == expected
        wanted = data.draw(st.lists(st.sampled_from(HASHES), max_size=9))
        assert index.find_each(wanted) == {at: expected[h] for at, h in enumerate(wanted) if expected[h]}
        after = data.draw(st.sampled_from([n for n, _ in lines] or [before])) + data.draw(st.integers(-2, 2))
        assert {h: index.find(h, after) for h in HASHES} == {
            h: [n for n in found if n > after] for h, found in expected.items()
        }
        index.drop(after)
        kept = {h: index.find(h) for h in HASHES}
        for h, found in kept.items():
            assert found == expected[h][: len(found)]
            assert {n for n in expected[h] if n > after} <= set(found)
        # Each table that is left has one of them, or may still get one.
        assert all(table.last > after for table in index._tables)

    check()


def test_half_a_million_lines_and_more_lie_in_tables_of_the_usual_size():
    hashes = np.random.default_rng(7).integers(0, 2**32, 600_000, np.uint32)
    index = HashIndex()
    for start in range(0, 600_000, 100_000):
        index.add(hashes[start : start + 100_000], np.arange(start + 1, start + 100_001))
    assert len(index._tables) == 2
    numbers = [1, 2**19, 2**19 + 1, 600_000]
    found = index.find_each(hashes[np.array(numbers) - 1].tolist() + list(range(100)))
    where = {h: np.flatnonzero(hashes == h)[::-1] + 1 for h in (*hashes[np.array(numbers) - 1].tolist(), *range(100))}
    expected = [where[h].tolist() for h in (*hashes[np.array(numbers) - 1].tolist(), *range(100))]
    assert [found.get(position, []) for position in range(104)] == expected
    assert [found[position] for position in range(4)] == [[number] for number in numbers]
    index.drop(2**19)
    assert (index.find(int(hashes[0])), index.find(int(hashes[-1]))) == ([], [600_000])
