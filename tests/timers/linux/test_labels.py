"""What a process says it is, and at what: written by it, and read with no trust in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from timers.linux.labels import Labels, labels_of, name_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    environment = {"TIMERS_RECORDER_DIR": str(tmp_path)}
    monkeypatch.setattr("timers.linux.procfs.environment", lambda _: environment)
    return tmp_path / f"{os.getpid()}.labels"


def test_each_thread_has_its_own(note: Path) -> None:
    labels = Labels(str(note.parent))
    process = {"ray_node_id": "n"}
    labels.write("actor A", process, 1, {"ray_task": "long, at first"})
    labels.write("actor A", process, 2, {"ray_task": "g"})
    labels.write("actor A", process, 1, {"ray_task": "f"})
    assert name_of(os.getpid()) == "actor A"
    assert labels_of(os.getpid(), 1) == {"ray_node_id": "n", "ray_task": "f"}
    assert labels_of(os.getpid(), 2) == {"ray_node_id": "n", "ray_task": "g"}
    assert labels_of(os.getpid()) == labels_of(os.getpid(), 3) == {"ray_node_id": "n"}
    labels.done(2)
    labels.done(2)
    labels.write("actor A", {}, 1, {})
    assert labels_of(os.getpid(), 2) == {}


def test_without_a_directory_nothing_is_written(tmp_path: Path) -> None:
    Labels(None).write("x", {}, 1, {})
    assert list(tmp_path.iterdir()) == []
    assert labels_of(os.getpid()) == {}
    assert name_of(os.getpid()) is None


def test_a_file_is_of_bounded_size(note: Path) -> None:
    labels = Labels(str(note.parent))
    for thread in range(100):
        labels.write("x", {}, thread, {"ray_task": "y" * 1000})
    assert note.stat().st_size <= 8192
    assert len(labels_of(os.getpid(), 99)["ray_task"]) == 200


def test_a_forked_child_has_a_file_of_its_own(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom timers.linux.labels import Labels\n"
        "labels = Labels(sys.argv[1])\nlabels.write('p', {}, 1, {})\n"
        "if os.fork() == 0:\n    labels.write('c', {}, 1, {})\n    os._exit(0)\nos.wait()\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    names = sorted(json.loads(path.read_text())["name"] for path in tmp_path.iterdir())
    assert names == ["c", "p"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 8000,
        "\xff",
        json.dumps({"name": 1, "process": [], "threads": 2}),
        json.dumps({"process": {"outcome": "killed", "ray_X": "y", "ray_a": 1, "ray_b": ""}}),
        json.dumps({"threads": {"1": {"signal": "9"}}}),
    ],
)
def test_what_is_no_label_is_not_read(note: Path, text: str) -> None:
    note.write_text(text)
    assert labels_of(os.getpid(), 1) == {}
    assert name_of(os.getpid()) is None


def test_a_link_and_a_pipe_are_not_read(note: Path) -> None:
    other = note.parent / "other"
    other.write_text('{"name": "somebody"}\n')
    note.symlink_to(other)
    assert name_of(os.getpid()) is None
    note.unlink()
    os.mkfifo(note)
    assert name_of(os.getpid()) is None
