"""The event log: a line for each shard as it is done, read back while it grows, on local and on other storage."""

import json
import uuid
from pathlib import Path

import pytest

from winnow.pipeline import storage
from winnow.pipeline.errors import TornError
from winnow.pipeline.executors.watching import Done
from winnow.pipeline.store import events
from winnow.pipeline.store.events import EventLog, EventReader

ITEM = Done("rules", 3, "host:7", 0.123456, 100, 2, 4096, 1)


def written(log: EventLog, items: int = 1) -> None:
    log.begin("rules", 5, 2)
    for _ in range(items):
        log.done(ITEM)


def test_lines_are_there_as_shards_are_done(tmp_path: Path) -> None:
    log, reader = EventLog.of(str(tmp_path), "a.job-1"), EventReader(str(tmp_path))
    assert (list(reader.more()), reader.log) == ([], "")
    written(log)
    first = list(reader.more())
    assert [event["event"] for event in first] == ["run", "pass", "shard"]
    assert first[2].pop("t") >= 0
    assert first[2] == {
        "event": "shard", "stage": "rules", "shard": 3, "worker": "host:7", "seconds": 0.1235, "rows": 100,
        "rejects": 2, "bytes": 4096, "retries": 1,
    }  # fmt: skip
    assert list(reader.more()) == []
    log.made("rules", "rules-00000000", 1.5, False)
    log.close("finished")
    assert [event["event"] for event in reader.more()] == ["stage", "end"]


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    log, reader = EventLog.of(str(tmp_path), "job"), EventReader(str(tmp_path))
    written(log)
    log.close("failed")
    [path] = (tmp_path / "events").glob("*.jsonl")
    whole = path.read_text()
    path.write_text(whole[:-5])
    assert [event["event"] for event in reader.more()] == ["run", "pass", "shard"]
    path.write_text(whole)
    assert [event["event"] for event in reader.more()] == ["end"]


@pytest.mark.parametrize("how", ["no folder", "full"])
def test_a_log_that_cannot_be_written_is_given_up_and_says_so_once(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log = EventLog(f"{tmp_path}/events/log")
    if how == "full":
        (tmp_path / "events").mkdir()
        (tmp_path / "events/log.jsonl").symlink_to("/dev/full")
    else:
        (tmp_path / "events").write_text("of somebody else")
    written(log, items=3)
    log.close("finished")
    says = {"full": "No space left on device", "no folder": "File exists"}[how]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("winnow: the event log cannot be written and ends here: ")
    assert says in line


def test_a_line_that_is_no_event_names_its_file(tmp_path: Path) -> None:
    log, reader = EventLog.of(str(tmp_path), "job"), EventReader(str(tmp_path))
    written(log)
    log.close("failed")
    [path] = (tmp_path / "events").glob("*.jsonl")
    with path.open("ab") as file:
        file.write(bytes(20) + b"\n")
    with pytest.raises(TornError, match=r"\.jsonl must hold one event on each line, got b'\\x00.*; delete the file"):
        list(reader.more())


def test_a_large_log_is_read_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, reader = EventLog.of(str(tmp_path), "job"), EventReader(str(tmp_path))
    written(log, items=20)
    whole = list(EventReader(str(tmp_path)).more())
    monkeypatch.setattr(events, "_BLOCK_BYTES", 7)
    assert list(reader.more()) == whole
    assert len(whole) == 22
    log.close("finished")
    assert [event["event"] for event in reader.more()] == ["end"]


def test_a_run_that_does_nothing_leaves_no_file(tmp_path: Path) -> None:
    EventLog.of(str(tmp_path), "job").close("failed")
    assert list(tmp_path.iterdir()) == []


def test_other_storage_gets_parts_that_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    store = f"memory://{uuid.uuid4().hex}"
    log, reader = EventLog.of(store, "job"), EventReader(store)
    written(log, items=3)
    assert list(reader.more()) == [], "a minute has not passed"
    monkeypatch.setattr(events, "PART_S", -1.0)
    log.done(ITEM)
    log.done(ITEM)
    log.close("finished")
    files = [storage.name_of(file.url) for file in storage.listing(f"{store}/events")]
    assert [name[-13:] for name in files] == ["-p00000.jsonl", "-p00001.jsonl", "-p00002.jsonl"]
    assert [event["event"] for event in reader.more()] == ["run", "pass", *["shard"] * 5, "end"]


def test_the_newest_log_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "events"
    folder.mkdir()
    reader = EventReader(str(tmp_path))
    for start, job in (("20260101T000000Z", "z"), ("20260102T000000Z", "a")):
        (folder / f"{job}-{start}-12.jsonl").write_text(json.dumps({"event": "run", "t": 0, "job": job}) + "\n")
        assert [event["job"] for event in reader.more()] == [job]
    (folder / "notes.txt").write_text("of somebody else")
    assert list(reader.more()) == []
    assert reader.log == "a-20260102T000000Z-12"
