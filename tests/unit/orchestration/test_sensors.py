"""Files that are dropped become runs: each once, also after a restart; what cannot be read is named and tried again."""

import json
import os
import shutil
import time
from pathlib import Path

import dagster as dg
import pytest

from fraud_pipelines.orchestration.sensors import build_sensors, waiting_files

HEADER = "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD\n"


class Inbox:
    """An inbox, its sensor, and a Dagster instance that remembers run keys as the daemon does."""

    def __init__(self, settings) -> None:
        self.folder = Path(settings.inbox)
        self.sensor = build_sensors(settings)[0]
        self.instance = dg.DagsterInstance.ephemeral()
        self.cursor: str | None = None
        self.launched: list[dg.RunRequest] = []

    def drop(self, name: str, text: str, *, age_seconds: float = 60.0) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        moment = time.time() - age_seconds
        os.utime(path, (moment, moment))
        return path

    def tick(self) -> tuple[list[dg.RunRequest], str]:
        """What one tick newly launches (a run key that was used before launches nothing), and why nothing was."""
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor) as context:
            result = self.sensor(context)
        self.cursor = result.cursor
        used = {request.run_key for request in self.launched}
        new = [request for request in result.run_requests if request.run_key not in used]
        self.launched += new
        return new, result.skip_reason.skip_message if result.skip_reason else ""

    def forget(self) -> None:
        """Lose the cursor, as a reset sensor does; run keys stay in the instance."""
        self.cursor = None


@pytest.fixture
def inbox(tmp_settings) -> Inbox:
    return Inbox(tmp_settings)


def rows(*days: str) -> str:
    lines = [f"{index},{day} 12:00:00,7,9,12.34,0\n" for index, day in enumerate(days)]
    return HEADER + "".join(lines)


def test_a_file_becomes_one_run_over_its_days(inbox):
    inbox.drop("handbook/april.csv", rows("2018-04-01", "2018-04-03"))
    (request,), _ = inbox.tick()
    assert request.run_config["ops"]["raw"]["config"]["mapping"] == "handbook"
    assert request.tags["dagster/asset_partition_range_start"] == "2018-04-01"
    assert request.tags["dagster/asset_partition_range_end"] == "2018-04-10"  # the last label, 7 days after


def test_the_same_file_never_becomes_a_second_run(inbox):
    path = inbox.drop("handbook/april.csv", rows("2018-04-01"))
    assert len(inbox.tick()[0]) == 1
    assert inbox.tick()[0] == []
    inbox.forget()
    assert inbox.tick()[0] == []
    shutil.copy2(path, path.with_name("the same under another name.csv"))
    assert inbox.tick()[0] == []


def test_a_file_with_other_content_is_a_new_event(inbox):
    inbox.drop("handbook/april.csv", rows("2018-04-01"))
    inbox.tick()
    inbox.drop("handbook/april.csv", rows("2018-04-01", "2018-04-02"), age_seconds=30)
    assert len(inbox.tick()[0]) == 1


def test_old_files_are_not_read_again(inbox):
    path = inbox.drop("handbook/april.csv", rows("2018-04-01"))
    inbox.tick()
    stamp = path.stat()
    path.write_text("x" * stamp.st_size)  # unreadable, yet of the same size and time
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert inbox.tick() == ([], f"No new file in {inbox.folder}/<mapping>/.")


def test_a_file_that_cannot_be_read_is_named_and_the_good_ones_go_on(inbox):
    inbox.drop("handbook/bad.csv", "this is,not the handbook\n1,2\n")
    inbox.drop("handbook/good.csv", rows("2018-04-01"))
    requests, _ = inbox.tick()
    assert [request.tags["fraud/source_file"] for request in requests] == ["good.csv"]
    requests, reason = inbox.tick()
    assert requests == []
    assert "handbook/bad.csv" in reason
    inbox.drop("handbook/bad.csv", rows("2018-05-01"))
    assert len(inbox.tick()[0]) == 1


def test_an_unknown_mapping_says_which_there_are(inbox):
    inbox.drop("acme/april.csv", rows("2018-04-01"))
    requests, reason = inbox.tick()
    assert requests == []
    assert "handbook" in reason


def test_a_folder_may_hold_its_own_mapping(inbox):
    from fraud_pipelines.raw import mapping

    shipped = Path(mapping.__file__).parent / "mappings" / "handbook.yml"
    inbox.drop("acme/mapping.yml", shipped.read_text())
    inbox.drop("acme/april.csv", rows("2018-04-01"))
    (request,), _ = inbox.tick()
    assert request.run_config["ops"]["raw"]["config"]["mapping"] == str(inbox.folder / "acme" / "mapping.yml")


def test_hidden_partial_and_foreign_files_wait(inbox):
    inbox.drop("handbook/.april.csv", rows("2018-04-01"))
    inbox.drop("handbook/april.csv.part", rows("2018-04-01"))
    inbox.drop("handbook/young.csv", rows("2018-04-01"), age_seconds=0)
    inbox.drop("handbook/SHOUT.CSV", rows("2018-04-01"))
    assert [path.name for path in waiting_files(inbox.folder)] == ["SHOUT.CSV"]


def test_the_cursor_keeps_no_file_that_is_gone(inbox):
    path = inbox.drop("handbook/april.csv", rows("2018-04-01"))
    inbox.tick()
    path.unlink()
    inbox.tick()
    assert json.loads(inbox.cursor) == {}


def test_nobody_waits_in_an_inbox_that_does_not_exist(tmp_path):
    assert waiting_files(tmp_path / "none") == []
