"""What is changed in a process that does nothing but serve timers."""

from __future__ import annotations

import json
import subprocess
import sys

from support.children import same_path

SCRIPT = """
import gc, json, resource, sys
from observability.cli._own_process import devote_process

soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 256), hard))
devote_process()
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
print(json.dumps({
    "limits": [limits, (hard, hard)],
    "interval": sys.getswitchinterval(),
    "rare": gc.get_threshold()[0] * gc.get_threshold()[1] * gc.get_threshold()[2],
    "enabled": gc.isenabled(),
    "frozen": gc.get_freeze_count(),
}))
"""


def test_a_process_is_devoted_to_its_timers() -> None:
    shown = subprocess.check_output([sys.executable, "-c", SCRIPT], text=True, env=same_path())
    found = json.loads(shown)
    assert found["limits"][0] == found["limits"][1]
    assert 0 < found["interval"] <= 0.001
    assert found["rare"] >= 10_000_000
    assert found["enabled"]
    assert found["frozen"] > 0
