"""A running service follows the ledger's newest promotion, and keeps a working champion whatever goes wrong."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import update

from fraud_pipelines.errors import LedgerUnavailable
from fraud_pipelines.ledger import Ledger, Promotion, open_ledger
from fraud_pipelines.ledger.schema import model_bundles
from fraud_pipelines.models.archive import pack
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.reasons import BUNDLE_CORRUPT, NO_CHAMPION, SPEC_MISMATCH, WARM_UP_FAILED
from serving.champion import Champion, Loaded, ready_to_decide
from serving.champion_watch import ChampionWatch, Pending
from tests.served_models import constant_bundle, tiny_bundle, unable_to_score

NOON = datetime(2026, 1, 1, 12)
BUNDLES = {str(number): constant_bundle(-float(number)) for number in range(1, 9)}
NOTHING = Loaded(None, NO_CHAMPION, "an empty folder")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    yield opened
    opened.close()


@pytest.fixture
def watch(ledger: Ledger, tmp_path: Path) -> Callable[..., ChampionWatch]:
    """A replica with a disk of its own by `disk`, and a Bento that holds nothing unless told otherwise."""

    def make(disk: str = "disk", *, bento: Loaded = NOTHING, **changes: object) -> ChampionWatch:
        settings = {"open_ledger": lambda: ledger, "folder": tmp_path / disk, "review_days": 365}
        return ChampionWatch(**{**settings, "bento": bento, **changes})

    return make


def promoted(ledger: Ledger, version: str, kind: str = "promote", *, bundle: Bundle | None = None, at=NOON) -> None:
    bundle = bundle or BUNDLES[version]
    ledger.store_bundle(version, bundle)
    ledger.record_promotion(Promotion(kind, version, None, "ann", "why", [], None, at, bundle_digest=bundle.digest))


def held(version: str) -> Loaded:
    return ready_to_decide("fraud-scorer", version, BUNDLES[version].digest, "bento", lambda: BUNDLES[version])


def away() -> Ledger:
    raise LedgerUnavailable("the ledger is away")


def damaged(ledger: Ledger, digest: str, content: bytes) -> None:
    with ledger._engine.begin() as connection:
        connection.execute(update(model_bundles).where(model_bundles.c.bundle_digest == digest).values(content=content))


def test_a_promotion_and_a_rollback_replace_the_model_that_decides(ledger, watch):
    told: list[Loaded] = []
    replica = watch(on_change=told.append)
    nothing = np.full((1, len(BUNDLES["1"].feature_names)), np.nan)
    for version, kind in (("1", "promote"), ("2", "promote"), ("1", "rollback")):
        promoted(ledger, version, kind)
        assert replica.check_once()
        champion = replica.current.champion
        assert (champion.version, champion.digest) == (version, BUNDLES[version].digest)
        assert champion.bundle.predict(nothing)[0] == pytest.approx(1 / (1 + np.exp(float(version))), rel=1e-5)
        assert told[-1] is replica.current
    assert replica.check_once()
    assert len(told) == 3
    assert replica.state()["promotion_id"] == 3


def test_a_refusal_changes_nothing(ledger, watch):
    replica = watch()
    promoted(ledger, "1")
    replica.check_once()
    before = replica.current
    promoted(ledger, "2", "refuse")
    assert replica.check_once()
    assert replica.current is before


def test_a_request_keeps_the_model_it_began_with(ledger, watch):
    replica = watch()
    promoted(ledger, "1")
    replica.check_once()
    read_once = replica.current
    promoted(ledger, "2")
    replica.check_once()
    assert (read_once.champion.version, read_once.champion.bundle) != (
        replica.current.champion.version, replica.current.champion.bundle,
    )  # fmt: skip
    assert read_once.champion.digest == BUNDLES["1"].digest


def test_what_the_bento_holds_is_not_fetched(ledger, watch):
    replica = watch(bento=held("1"))
    assert replica.check_once()  # nothing was ever promoted: the Bento's model decides
    assert replica.current.champion.version == "1"
    assert replica.current.expires_at is None
    # A row of before the ledger kept bundles names no digest, and there is none to fetch.
    ledger.record_promotion(Promotion("promote", "1", None, "ann", "why", [], None, NOON))
    assert replica.check_once()
    assert replica.current.champion.bundle is BUNDLES["1"]
    assert replica.current.expires_at == NOON + timedelta(days=365)
    promoted(ledger, "1")
    damaged(ledger, BUNDLES["1"].digest, b"")
    assert replica.check_once()
    assert replica.current.champion.bundle is BUNDLES["1"]


def test_a_version_the_ledger_has_no_bundle_of_leaves_the_champion_and_says_what_to_do(ledger, watch):
    replica = watch(bento=held("1"))
    ledger.record_promotion(Promotion("promote", "2", None, "ann", "why", [], None, NOON))
    assert not replica.check_once()
    assert replica.current.champion.version == "1"
    assert "fraud promote 2" in replica.problem
    ledger.store_bundle("2", BUNDLES["2"])
    assert replica.check_once()
    assert replica.current.champion.version == "2"


def cut(bundle: Bundle) -> bytes:
    return pack(bundle.contents)[:5000]


def one_bit_changed(bundle: Bundle) -> bytes:
    model = bytearray(bundle.contents["model.onnx"])
    model[len(model) // 2] ^= 1
    return pack({**bundle.contents, "model.onnx": bytes(model)})


def of_another_model(_: Bundle) -> bytes:
    return pack(BUNDLES["7"].contents)


def without_a_file(bundle: Bundle) -> bytes:
    return pack({name: data for name, data in bundle.contents.items() if name != "feature_spec.yml"})


@pytest.mark.parametrize("harm", [cut, one_bit_changed, of_another_model, without_a_file])
def test_damaged_content_never_replaces_a_working_champion(ledger, watch, harm):
    seen: list[Pending] = []
    replica = watch(on_pending=seen.append)
    promoted(ledger, "1")
    replica.check_once()
    before = replica.current
    promoted(ledger, "2")
    damaged(ledger, BUNDLES["2"].digest, harm(BUNDLES["2"]))
    assert not replica.check_once()
    assert replica.current is before
    pending = replica.state()["pending"]
    assert (pending["model_version"], pending["cause"], pending["attempts"]) == ("2", BUNDLE_CORRUPT, 1)
    assert not replica.check_once()  # not tried again at once
    assert [attempt.attempts for attempt in seen] == [1]
    # A rollback is not held up by what failed before it.
    promoted(ledger, "1", "rollback")
    assert replica.check_once()
    assert (replica.current.champion.version, replica.state()["pending"]) == ("1", None)


def test_what_failed_is_tried_again_with_longer_and_longer_pauses(ledger, watch, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    attempts: list[float] = []
    replica = watch(on_pending=lambda _: attempts.append(now))
    promoted(ledger, "1")
    damaged(ledger, BUNDLES["1"].digest, b"torn")
    while now < 1100.0:
        replica.check_once()
        now += 0.5
    assert np.diff(attempts).tolist() == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    ledger.store_bundle("1", BUNDLES["1"])  # as `fraud promote 1` does
    now += 30.0
    assert replica.check_once()
    assert replica.current.champion.version == "1"


def test_a_model_that_cannot_score_or_has_another_spec_does_not_take_over(ledger, watch):
    replica = watch()
    promoted(ledger, "1")
    replica.check_once()
    sound = tiny_bundle()
    for version, bundle, cause in (
        ("2", replace(sound, model=unable_to_score(sound.model)), WARM_UP_FAILED),
        ("3", replace(sound, spec_hash="0" * 64), SPEC_MISMATCH),
    ):
        promoted(ledger, version, bundle=bundle)
        assert not replica.check_once()
        assert replica.pending.cause == cause
        assert replica.current.champion.version == "1"


def test_contributions_that_do_not_add_up_to_the_score_are_noticed(monkeypatch):
    bundle = tiny_bundle()
    contributions = Bundle.contributions
    # On the reference sample alone: the row of nothing says what it should.
    monkeypatch.setattr(Bundle, "contributions", lambda self, rows: contributions(self, rows) + 0.01 * (len(rows) > 1))
    loaded = ready_to_decide("fraud-scorer", "1", bundle.digest, "here", lambda: bundle)
    assert loaded.cause == WARM_UP_FAILED
    assert "add up to the log-odds" in loaded.problem


def test_without_any_champion_answers_name_the_cause_that_says_most(ledger, watch):
    replica = watch()
    assert (replica.current.champion, replica.current.cause) == (None, NO_CHAMPION)
    promoted(ledger, "1")
    damaged(ledger, BUNDLES["1"].digest, b"torn")
    replica.check_once()
    assert (replica.current.champion, replica.current.cause) == (None, BUNDLE_CORRUPT)


def test_a_ledger_that_goes_away_leaves_the_champion_and_is_followed_when_it_is_back(ledger, watch):
    is_away = False

    class Line:
        def __getattr__(self, name):
            return getattr(away() if is_away else ledger, name)

    replica = watch(open_ledger=Line)
    promoted(ledger, "1")
    replica.check_once()
    is_away = True
    promoted(ledger, "2")
    assert not replica.check_once()
    assert (replica.current.champion.version, replica.problem) == ("1", "the ledger is away")
    is_away = False
    assert replica.check_once()
    assert (replica.current.champion.version, replica.problem) == ("2", None)


def test_a_restart_while_the_ledger_is_away_comes_up_with_the_last_known_champion(ledger, watch):
    replica = watch(bento=held("1"))
    promoted(ledger, "2", at=NOON)
    replica.check_once()
    restarted = watch(bento=held("1"), open_ledger=away)
    assert (restarted.current.champion.version, restarted.current.champion.digest) == ("2", BUNDLES["2"].digest)
    assert restarted.current.expires_at == NOON + timedelta(days=365)
    assert not restarted.check_once()
    assert restarted.current.champion.version == "2"


@pytest.mark.parametrize("harm", ["pointer", "bundle", "elsewhere"])
def test_a_restart_with_a_damaged_disk_falls_back_to_the_bento_until_the_ledger_answers(ledger, watch, tmp_path, harm):
    promoted(ledger, "2")
    watch().check_once()
    folder = tmp_path / "disk"
    pointer = folder / "champion.json"
    if harm == "pointer":
        pointer.write_text("{")
    elif harm == "bundle":
        (folder / BUNDLES["2"].digest / "model.onnx").write_bytes(b"torn")
    else:
        BUNDLES["2"].save(tmp_path / "outside")
        pointer.write_text(json.dumps(json.loads(pointer.read_text()) | {"bundle_digest": "../outside"}))
    restarted = watch(bento=held("1"))
    assert restarted.current.champion.version == "1"
    assert harm != "elsewhere" or (tmp_path / "outside").is_dir()  # a name that is no digest leads nowhere
    assert restarted.check_once()
    assert restarted.current.champion.version == "2"
    assert watch(open_ledger=away).current.champion.version == "2"  # what was damaged is kept anew


def test_a_ledger_without_promotions_gives_the_decision_back_to_the_bento(ledger, watch, tmp_path):
    promoted(ledger, "2")
    watch().check_once()
    empty = open_ledger(f"sqlite:///{tmp_path / 'another.sqlite'}")
    restarted = watch(bento=held("1"), open_ledger=lambda: empty)
    assert restarted.current.champion.version == "2"
    assert restarted.check_once()
    assert restarted.current.champion.version == "1"
    assert watch(bento=held("1"), open_ledger=away).current.champion.version == "1"
    empty.close()


def test_two_replicas_end_on_the_same_version_however_they_came_there(ledger, watch):
    early, late = watch("a"), watch("b", bento=held("4"))
    for version, kind in (("1", "promote"), ("2", "promote"), ("3", "promote"), ("1", "rollback"), ("4", "promote")):
        promoted(ledger, version, kind)
        early.check_once()
    promoted(ledger, "3", "rollback", at=NOON - timedelta(days=30))  # a machine with a wrong clock
    for replica in (early, late):
        assert replica.check_once()
    assert early.state() == late.state()
    assert early.current.champion.version == "3"


def test_a_rollback_to_a_recent_champion_needs_neither_ledger_content_nor_loading(ledger, watch, tmp_path):
    replica = watch()
    first: dict[str, Champion] = {}
    for version in "1234":
        promoted(ledger, version)
        replica.check_once()
        first[version] = replica.current.champion
    for version in "1234":
        damaged(ledger, BUNDLES[version].digest, b"torn")

    def again(version: str) -> Champion:
        row = Promotion("rollback", version, None, "ann", "why", [], bundle_digest=BUNDLES[version].digest)
        ledger.record_promotion(row)
        assert replica.check_once(), replica.problem
        return replica.current.champion

    assert again("3").bundle is first["3"].bundle  # of the last three, in memory
    assert again("2").bundle is first["2"].bundle
    assert again("1").bundle is not first["1"].bundle  # further back: from this machine's disk
    assert replica.current.champion.digest == BUNDLES["1"].digest


def test_the_disk_keeps_the_last_five(ledger, watch, tmp_path):
    replica = watch()
    (tmp_path / "disk" / ".left-behind").mkdir(parents=True)
    (tmp_path / "disk" / ".being-written").mkdir()
    old = time.time() - 7200

    os.utime(tmp_path / "disk" / ".left-behind", (old, old))
    for version in "1234567":
        promoted(ledger, version)
        replica.check_once()
        if version == "4":
            promoted(ledger, "1", "rollback")
            replica.check_once()
    kept = {path.name for path in (tmp_path / "disk").iterdir()}
    # Version 1 was used again after 2, 3 and 4 were stored.
    expected = {BUNDLES[version].digest for version in "45671"}
    assert kept == expected | {"champion.json", ".being-written"}


def test_a_disk_that_cannot_be_written_holds_nothing_up(ledger, watch, tmp_path):
    (tmp_path / "disk").write_text("a file where the folder should be")
    replica = watch()
    promoted(ledger, "1")
    assert replica.check_once()
    assert replica.current.champion.version == "1"


def test_a_promotion_expires_when_its_review_is_overdue_and_a_new_row_renews_it(ledger, watch):
    replica = watch(review_days=30)
    promoted(ledger, "1", at=NOON)
    replica.check_once()
    end = NOON + timedelta(days=30)
    assert not replica.current.is_expired(end - timedelta(microseconds=1))
    assert replica.current.is_expired(end)
    promoted(ledger, "1", at=end)
    replica.check_once()
    assert not replica.current.is_expired(end)
    assert replica.state()["expires_at"] == "2026-03-02T12:00:00Z"  # 31 and 30 days after 1 January


def test_the_thread_follows_within_two_seconds_survives_errors_and_ends(ledger, watch):
    changed = threading.Event()

    def on_change(loaded: Loaded) -> None:
        changed.set()
        if loaded.champion.version == "1":
            raise RuntimeError("a mistake of the caller's")

    promoted(ledger, "1")
    replica = watch(on_change=on_change)
    replica.start()
    try:
        assert replica.current.champion.version == "1"  # start() waits for the first answer
        changed.clear()
        promoted(ledger, "2")
        assert changed.wait(10)
        assert replica.current.champion.version == "2"
    finally:
        replica.stop()
    assert "champion-watch" not in [thread.name for thread in threading.enumerate()]
