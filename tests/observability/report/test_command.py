"""``timers report``: event files of several hosts in, one answer and an exit status out."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from hangs.simulated import IN_ALL_REDUCE, OUTER, looking, view
from observability.hang.json import extra_fields, view_from
from observability.hang.report import analyse
from observability.report.command import NOBODY, SUSPECT, UNUSABLE, report
from observability.samples.types import Descendant, Pace, Sample
from support.hang_events import BEGIN, exited, hang, write
from timers.stacks.take import Frame

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

    from observability.samples.types import WorkerView

READING = (Frame("read_shard", "/job/data.py", 88), *OUTER)


def worker(rank: int, frames: tuple[Frame, ...] = IN_ALL_REDUCE) -> WorkerView:
    """Eight on a host, looked at twice."""
    return view(rank, *(looking(1000 + rank, frames, at=at, cpu=2.0) for at in (0.0, 50.0)))


def hosts(directory: Path, size: int = 32, odd: int | None = 19) -> list[str]:
    """The event files of a job in which one rank reads for ever, one for each host."""
    views = [worker(rank, READING if rank == odd else IN_ALL_REDUCE) for rank in range(size)]
    names = sorted({view.host for view in views})
    return [
        write(directory / f"{name}.jsonl", hang(view for view in views if view.host == name))
        for name in names
    ]


def run(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(report, arguments, input=stdin)


def test_the_files_of_four_hosts_name_the_one_rank_of_the_one_host(tmp_path: Path) -> None:
    files = hosts(tmp_path)
    assert len(files) == 4
    result = run(*files)
    assert result.exit_code == SUSPECT
    lines = result.stdout.splitlines()
    assert lines[1].startswith("Rank 19 (pid 1019 on node2) is stuck")
    assert "/job/data.py:88 read_shard" in result.stdout
    assert "31 x waiting in all_reduce" in result.stdout
    assert "32 workers on 4 hosts" in result.stdout
    assert result.stderr == ""


def test_the_hosts_that_only_wait_accuse_nobody(tmp_path: Path) -> None:
    files = hosts(tmp_path)
    assert run(files[2]).exit_code == SUSPECT
    for index in (0, 1, 3):
        result = run(files[index])
        assert result.exit_code == NOBODY
        assert "no rank differs" in result.stdout.lower()


def test_the_report_of_sixty_four_workers_fits_on_a_screen(tmp_path: Path) -> None:
    result = run(*hosts(tmp_path, size=64, odd=40))
    assert result.exit_code == SUSPECT
    assert "64 workers" in result.stdout
    assert len(result.stdout.splitlines()) <= 24


def test_json_has_the_groups_as_data(tmp_path: Path) -> None:
    result = run("--json", *hosts(tmp_path))
    assert result.exit_code == SUSPECT
    data: dict[str, Any] = json.loads(result.stdout)
    [found] = data["hangs"]
    assert data["run_id"] == "job-7"
    assert found["verdict"] == "one_suspect"
    assert found["confidence"] == "high"
    assert found["host_names"] == ["node0", "node1", "node2", "node3"]
    assert found["scopes"] == ["step"]
    assert found["suspects"][0]["rank"] == 19
    assert found["suspects"][0]["host"] == "node2"
    assert [group["count"] for group in found["groups"]] == [31, 1]
    assert found["groups"][1]["ranks"] == [19]


class Page(HTMLParser):
    """The elements and text of a page; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""
        self.suspect_text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "br"):
            marked = ("class", "suspect") in attrs
            self.open.append(f"{tag}!" if marked else tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().rstrip("!") == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if any(tag.endswith("!") for tag in self.open):
            self.suspect_text += data


def test_the_page_draws_the_tree_and_marks_the_suspect(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    odd = (Frame("<script>alert(1)</script>", "/job/data.py", 88), *OUTER)
    views = [*(worker(rank) for rank in range(3)), worker(3, odd)]
    result = run("--html", str(page), write(tmp_path / "events", hang(views)))
    assert result.exit_code == SUSPECT
    found = Page(page.read_text())
    assert "script" not in found.seen
    assert "<script>alert(1)</script>" in found.suspect_text
    assert "all_reduce" in found.text
    assert "all_reduce" not in found.suspect_text
    assert "Rank 3" in found.text
    assert "4 workers" in found.text


def test_the_last_hang_is_reported_and_all_on_request(tmp_path: Path) -> None:
    first = hang([worker(0), worker(1, READING)])
    restarted = [replace(each, worker=replace(each.worker, pid=2000 + i)) for i, each in
                 enumerate((worker(0, READING), worker(1)))]  # fmt: skip
    file = write(tmp_path / "events", first + hang(restarted, at=BEGIN + 90))
    result = run(file)
    assert result.exit_code == SUSPECT
    assert "pid 2000" in result.stdout
    assert "pid 1001" not in result.stdout
    assert "--all" in result.stderr
    every = run("--all", "--json", file)
    assert [each["suspects"][0]["pid"] for each in json.loads(every.stdout)["hangs"]] == [
        1001,
        2000,
    ]


def test_a_worker_that_ended_before_is_missed_and_one_that_ended_after_is_not(
    tmp_path: Path,
) -> None:
    views = [worker(0), worker(1)]
    before = exited(worker(2), at=BEGIN - 30, inside="load")
    result = run(write(tmp_path / "before", [before, *hang(views)]))
    assert result.exit_code == SUSPECT
    assert "ended inside of scope load" in result.stdout
    after = exited(worker(2), at=BEGIN + 30, inside="load")
    result = run(write(tmp_path / "after", [*hang(views), after]))
    assert result.exit_code == NOBODY
    assert "2 workers" in result.stdout


def test_ranks_that_nobody_saw_are_named_when_the_size_is_known(tmp_path: Path) -> None:
    file = write(tmp_path / "events", hang([worker(0), worker(2)]))
    result = run("--world-size", "4", file)
    assert result.exit_code == NOBODY
    assert "ranks 1, 3 were not seen" in result.stdout


def test_the_size_of_the_job_is_read_from_its_events(tmp_path: Path) -> None:
    lines = [line | {"world_size": 4} for line in hang([worker(0), worker(2)])]
    assert "ranks 1, 3 were not seen" in run(write(tmp_path / "events", lines)).stdout
    lines[-1]["world_size"] = 2  # who says nonsense is not believed
    assert "not seen" not in run(write(tmp_path / "events", lines)).stdout


def test_one_that_was_ended_before_its_stack_was_taken_is_known_by_its_scope(
    tmp_path: Path,
) -> None:
    """With one rank on each node: the launcher ends the others when the first one is killed."""
    elsewhere = replace(worker(1), host="node1")
    ended = exited(elsewhere, at=BEGIN + 3, inside="fetch_shard", since=70.0)
    files = (write(tmp_path / "0", hang([worker(0)])), write(tmp_path / "1", [ended]))
    result = run("--json", *files)
    (found,) = json.loads(result.stdout)["hangs"]
    assert [suspect["rank"] for suspect in found["suspects"]] == [1]
    assert found["confidence"] == "low"
    assert "was inside scope 'fetch_shard'" in found["sentence"]


@pytest.mark.parametrize(
    ("inside", "since"),
    [("step", 70.0), ("fetch_shard", 1.0), (None, 70.0)],
    ids=["where the others are", "entered later", "in no scope"],
)
def test_one_that_was_ended_then_is_not_accused_for_that(
    tmp_path: Path, inside: str | None, since: float
) -> None:
    elsewhere = replace(worker(1), host="node1")
    ended = exited(elsewhere, at=BEGIN + 30, inside=inside, since=since)
    files = (write(tmp_path / "0", hang([worker(0)])), write(tmp_path / "1", [ended]))
    assert run(*files).exit_code == NOBODY


@pytest.mark.parametrize("off", [-86_400.0, 86_400.0])
def test_a_clock_that_is_a_day_off_accuses_nobody_who_has_finished(
    tmp_path: Path, off: float
) -> None:
    finished = [exited(replace(worker(rank), host="node1"), at=BEGIN + off) for rank in (2, 3)]
    files = (
        write(tmp_path / "0", hang([worker(0), worker(1)])),
        write(tmp_path / "1", finished),
    )
    assert run(*files).exit_code == NOBODY
    # On the same clock one that left early is missed.
    left = exited(replace(worker(2), host="node1"), at=BEGIN - 70)
    assert run(files[0], write(tmp_path / "2", [left])).exit_code == SUSPECT


def test_runs_that_were_named_for_want_of_a_name_are_one_job_on_two_hosts(tmp_path: Path) -> None:
    first, second = "20260731T120000Z-0a1b2c", "20260731T120003Z-3d4e5f"
    views = [worker(0), replace(worker(1, READING), host="node1")]
    files = [
        write(tmp_path / run_id, hang([each], run_id=run_id))
        for run_id, each in zip((first, second), views, strict=True)
    ]
    assert run(*files).exit_code == SUSPECT
    same_host = write(tmp_path / "same", hang([worker(1, READING)], run_id=second))
    assert run(files[0], same_host).exit_code == UNUSABLE
    later = write(tmp_path / "later", hang([views[1]], run_id="20260801T120003Z-3d4e5f"))
    assert run(files[0], later).exit_code == UNUSABLE


def test_files_without_an_expiry_have_nothing_to_report(tmp_path: Path) -> None:
    line = exited(worker(0), at=BEGIN)
    result = run(write(tmp_path / "events", [line]))
    assert (result.exit_code, result.stdout) == (NOBODY, "No timer expired.\n")
    assert json.loads(run("--json", "-", stdin=json.dumps(line)).stdout)["hangs"] == []


def test_a_job_that_fails_without_an_expiry_ends_somehow(tmp_path: Path) -> None:
    lines = [
        {**exited(worker(1), at=BEGIN, inside="load\x1b"), "exit_signal": 11},
        *({**exited(worker(rank), at=BEGIN), "exit_code": 1} for rank in range(2, 20)),
        {**exited(worker(0), at=BEGIN), "exit_code": 0},
        {"event": "run finished", "timestamp": "2026-01-31T12:00:00Z", "exit_code": 1,
         "elapsed_seconds": 3.21},
    ]  # fmt: skip
    result = run(write(tmp_path / "events", lines))
    assert result.exit_code == NOBODY
    said = result.stdout.splitlines()
    assert said[:3] == [
        "No timer expired.",
        "Rank 1 (pid 1001 on node0) was ended by signal 11 inside of scope load\\x1b",
        "Rank 2 (pid 1002 on node0) exited with 1",
    ]
    assert said[-2:] == ["... and 11 more", "The command exited with 1 after 3.2 s."]


def test_lines_that_are_no_events_are_skipped_and_said(tmp_path: Path) -> None:
    [file] = [tmp_path / "events"]
    write(file, hang([worker(0), worker(1, READING)]))
    lines = file.read_bytes().splitlines(keepends=True)
    noise = b'[1]\n{"event": 3}\n\xff\xfe\n\n' + b"[" * 100_000 + b"\n"
    file.write_bytes(noise + b"".join(lines) + lines[-1][:40])
    result = run(str(file))
    assert result.exit_code == SUSPECT
    assert "skipped 5 lines" in result.stderr
    assert f"{file}:1" in result.stderr


@pytest.mark.parametrize("content", ["", "no json\n", '{"a": 1}\n'])
def test_input_without_events_is_unusable(tmp_path: Path, content: str) -> None:
    file = tmp_path / "events"
    file.write_text(content)
    result = run(str(file))
    assert result.exit_code == UNUSABLE
    assert f"no event in {file}" in result.stderr
    assert result.stdout == ""


def test_what_cannot_be_read_or_written_is_said(tmp_path: Path) -> None:
    missing = run(str(tmp_path / "missing"))
    assert missing.exit_code == UNUSABLE
    assert "No such file" in missing.stderr
    file = write(tmp_path / "events", hang([worker(0)]))
    unwritable = run("--html", str(tmp_path / "no" / "page.html"), file)
    assert unwritable.exit_code == UNUSABLE
    assert "cannot write" in unwritable.stderr
    assert run().exit_code == UNUSABLE


def test_several_runs_have_to_be_told_apart(tmp_path: Path) -> None:
    lines = hang([worker(0), worker(1)]) + hang([worker(0), worker(1, READING)], run_id="job-8")
    file = write(tmp_path / "events", lines)
    both = run(file)
    assert both.exit_code == UNUSABLE
    assert "--run-id" in both.stderr
    assert run("--run-id", "job-7", file).exit_code == NOBODY
    assert run("--run-id", "job-8", file).exit_code == SUSPECT
    unknown = run("--run-id", "job-9", file)
    assert unknown.exit_code == UNUSABLE
    assert "job-7, job-8" in unknown.stderr


def test_what_is_read_back_is_what_was_known() -> None:
    child = Descendant(
        pid=7100,
        parent=1001,
        samples=(
            looking(7100, (Frame("decode", "/job/data.py", 9),), channel="hrtimer_nanosleep"),
        ),
        command="loader",
    )
    waiting_for_it = worker(1, (Frame("get", "/usr/lib/python3.12/queue.py", 5), *OUTER))
    known = replace(waiting_for_it, descendants=(child,))
    [_, line] = hang([known])
    again = view_from(json.loads(json.dumps(line)))
    assert again.pace is Pace.STUCK
    assert again.descendants[0].command == "loader"
    assert again.dump is not None
    assert known.dump is not None
    assert again.dump.threads == known.dump.threads
    whole, read_back = (analyse([worker(0), each]).to_dict(tree=False) for each in (known, again))
    assert whole == read_back
    assert read_back["suspects"][0]["child_pid"] == 7100


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"worker_pid": None, "stack": 3, "children": [None, {}], "pace": ["stuck"]},
        {"worker_pid": "a", "stack": [{"frames": [1, "x"]}, 4], "rank": True, "pace": "fast"},
    ],
)
def test_any_fields_make_a_worker(fields: dict[str, Any]) -> None:
    found = view_from(fields)
    assert found.pace is Pace.UNKNOWN
    assert analyse([found]).suspects == ()
    assert (
        extra_fields(replace(found, samples=(Sample(dump=looking(1, ()).dump),), descendants=()))
        == {}
    )


def test_the_command_is_a_program(tmp_path: Path) -> None:
    files = hosts(tmp_path)
    code = "from observability.report.command import report; report(prog_name='report')"
    done = subprocess.run(
        [sys.executable, "-c", code, *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == SUSPECT
    assert "Rank 19" in done.stdout
    assert done.stderr == ""
