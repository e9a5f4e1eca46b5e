"""The last models of one role on this machine's disk: for a rollback in no time, and for a restart without a ledger."""

import contextlib
import json
import logging
import os
import re
import shutil
import time
from datetime import datetime
from pathlib import Path

from fraud_pipelines.ledger import CurrentChallenger, CurrentChampion
from fraud_pipelines.models.bento import BENTO_NAME
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.reasons import BUNDLE_CORRUPT
from serving.champion import Champion, Loaded, ready_to_decide

MOST_KEPT = 5
LAST_KNOWN = "champion.json"
# An unfinished folder as old as this was left behind by a process that was killed.
ABANDONED_AFTER_SECONDS = 3600.0
_DIGEST = re.compile(r"[0-9a-f]{64}")
Row = CurrentChampion | CurrentChallenger

logger = logging.getLogger("bentoml.fraud_scorer")


class KeptChampions:
    """Bundles by digest in a folder, and the ledger row that was followed last. Processes may share the folder.

    Args:
        row: the type of the rows that are followed.
    """

    def __init__(self, folder: Path, row: type[Row] = CurrentChampion) -> None:
        self._folder, self._row = folder, row

    def load(self, version: str, digest: str) -> Loaded | None:
        """A kept bundle, verified and tried again; None where there is none, or it is damaged (and then removed)."""
        folder = self._folder / digest
        if not _DIGEST.fullmatch(digest) or not folder.is_dir():
            return None
        loaded = ready_to_decide(
            BENTO_NAME, version, digest, str(folder), lambda: Bundle.load(folder, digest=digest)
        )  # fmt: skip
        if loaded.cause == BUNDLE_CORRUPT:
            logger.warning("A kept bundle is damaged and removed: %s", loaded.problem)
            shutil.rmtree(folder, ignore_errors=True)
            return None
        return loaded

    def keep(self, champion: Champion, row: Row) -> None:
        """Keep the model and that the ledger named it last; the oldest beyond MOST_KEPT go."""
        folder = self._folder / champion.digest
        try:
            if folder.is_dir():
                os.utime(folder)
            else:
                champion.bundle.save(folder)
            known = {**row._asdict(), "bundle_digest": champion.digest, "decided_at": row.decided_at.isoformat()}
            draft = self._folder / f".{LAST_KNOWN}-{os.getpid()}"
            draft.write_text(json.dumps(known))
            draft.replace(self._folder / LAST_KNOWN)
            self._tidy_up()
        except OSError as error:
            # A restart has to ask the ledger before it knows; nothing else depends on this disk.
            logger.warning("Version %s cannot be kept in %s: %s", champion.version, self._folder, error)

    def last_known(self) -> Row | None:
        """The row followed last; None where nothing was kept, or it cannot be read."""
        path = self._folder / LAST_KNOWN
        try:
            known = json.loads(path.read_text())
            return self._row(**{**known, "decided_at": datetime.fromisoformat(known["decided_at"])})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s cannot be read, so what it names is unknown until the ledger answers: %s", path, error)
            return None

    def forget(self) -> None:
        """Keep no row: the ledger names none."""
        with contextlib.suppress(OSError):
            (self._folder / LAST_KNOWN).unlink()

    def _tidy_up(self) -> None:
        now = time.time()
        age = {path: now - path.stat().st_mtime for path in self._folder.iterdir() if path.is_dir()}
        abandoned = [path for path in age if path.name.startswith(".") and age[path] > ABANDONED_AFTER_SECONDS]
        kept = sorted((path for path in age if not path.name.startswith(".")), key=lambda path: age[path])
        for path in [*abandoned, *kept[MOST_KEPT:]]:
            shutil.rmtree(path, ignore_errors=True)
