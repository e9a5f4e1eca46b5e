"""What is remembered of a group, and of the identifiers of the latest groups."""

from __future__ import annotations

from datetime import UTC

import orjson
from hypothesis import given
from hypothesis import strategies as st

from fraud_pipelines.online_store.following import Entry
from fraud_pipelines.reasons import NO_CHAMPION
from serving.answers import answers_of, fallback, records_of
from serving.groups import Group, Latest
from tests.stored_events import NOON, NOON_US, payment


def test_of_one_identifier_the_first_is_fresh_and_the_others_wait_for_its_answer():
    asked = [payment(id_, NOON_US + number, 100) for number, id_ in enumerate("abacbd")]
    group = Group.of(asked)
    assert group.fresh == [asked[0], asked[1], asked[3], asked[5]]
    assert all(group.first[one.transaction_id] is one for one in group.fresh)


def test_the_columns_are_those_of_what_is_fresh_now():
    group = Group.of([payment(id_, NOON_US, 100) for id_ in "abc"])
    assert group.columns is group.columns
    group.fresh = group.fresh[1:]
    assert list(group.columns.ids) == ["b", "c"]


def test_what_was_decided_before_leaves_the_others_with_their_own_answers():
    asked = [payment(id_, NOON_US, 100) for id_ in "abcbd"]
    group = Group.of(asked)
    records = answered(group, "REVIEW")
    group.stand({}, ())
    assert [one.transaction_id for one in group.fresh] == ["a", "b", "c", "d"]
    there = Group.of(asked)
    earlier = dict(zip("abcd", answered(there, "BLOCK"), strict=True))
    # The one of c is in the journal already.
    group.stand({"a": earlier["a"], "c": earlier["c"]}, {"c"})
    assert [one.transaction_id for one in group.fresh] == ["b", "d"]
    assert group.records == [earlier["a"]]
    assert [result.outcome.decision for result in group.results()] == ["BLOCK", "REVIEW", "BLOCK", "REVIEW", "REVIEW"]
    assert [orjson.loads(result.content)["transaction_id"] for result in group.results()] == [*"abcbd"]
    group.was_recorded(list(map(Entry, group.fresh, records[1::2])), {"d": earlier["d"]}, ())
    assert group.records == [earlier["a"], records[1], earlier["d"]]
    assert [result.outcome.decision for result in group.results()] == ["BLOCK", "REVIEW", "BLOCK", "REVIEW", "BLOCK"]


def answered(group: Group, decision: str) -> list[bytes]:
    """Decide on what is fresh, by a rule; the records."""
    group.verdicts = [fallback(NO_CHAMPION, decision)] * len(group.fresh)
    group.answers = answers_of(group.fresh, group.verdicts, None, None, NOON.replace(tzinfo=UTC))
    return records_of(group.fresh, group.answers, [None] * len(group.fresh))


@given(st.lists(st.lists(st.integers(0, 99), max_size=20), max_size=30), st.integers(1, 15))
def test_the_latest_identifiers_are_known_and_those_of_long_ago_are_not(added, most):
    latest, seen = Latest(most), []
    for ids in added:
        latest.add(map(str, ids))
        seen += ids
        newest = list(dict.fromkeys(reversed(seen)))
        assert all(str(id_) in latest for id_ in newest[:most])
        largest = max(map(len, added))
        assert not any(str(id_) in latest for id_ in newest[2 * (most + largest) :])
