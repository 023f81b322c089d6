"""Write what is built from code: ``python -m dashboards.build [--check]``, from the repository.

Built are the dashboards' JSON here, and for ``examples/kubernetes`` the manifest that carries the
rules. ``kustomization.yaml`` makes a ConfigMap of the dashboards as they are.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ALERTS", "HERE", "files", "main"]

HERE = Path(__file__).resolve().parent
KUBERNETES = HERE.parent / "examples" / "kubernetes"
RECORDING = HERE / "timers-recording.yml"
ALERTS = HERE / "timers-alerts.yml"

_BUILT = "# Built by python -m dashboards.build from dashboards/; change it there.\n"
_DASHBOARD = re.compile(r"(?m)^( *)https?://.*(/d/timers-run\?)")
_RUNBOOK = re.compile(r"(?m)^( *runbook_url: ).*/([a-z-]+\.md)$")


def dashboards() -> dict[str, str]:
    """Build each dashboard as the JSON that Grafana imports, by file name.

    :raises ModuleNotFoundError: without grafana-foundation-sdk.
    """
    from grafana_foundation_sdk.cog.encoder import JSONEncoder  # noqa: PLC0415  # not needed to set links

    from . import fleet, reaps_in_the_logs, run  # noqa: PLC0415  # all of them import that SDK

    built = {module.UID: module.build() for module in (fleet, run, reaps_in_the_logs)}
    return {
        f"{uid}.json": json.dumps(board, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
        for uid, board in built.items()
    }


def prometheus_rule(alerts: str) -> str:
    """Build the rules as a PrometheusRule of the Prometheus operator."""
    head = (
        "apiVersion: monitoring.coreos.com/v1\n"
        "kind: PrometheusRule\n"
        "metadata:\n"
        "  name: timers\n"
        "spec:\n"
        "  groups:\n"
    )
    # The files and the manifest have the same content below "groups:".
    groups = [text.split("\ngroups:\n", 1)[1] for text in (RECORDING.read_text(), alerts)]
    return _BUILT + head + "".join(_indented(group, 2) for group in groups)


def files(runbooks: str | None = None, grafana: str | None = None) -> dict[Path, str]:
    """Build everything: what each file must hold. With an address only what links there.

    :param runbooks: the address to put in front of the runbooks' names; None leaves what is there.
    :param grafana: the address of Grafana, likewise.
    :raises ModuleNotFoundError: without an address and without grafana-foundation-sdk.
    """
    alerts = ALERTS.read_text()
    if runbooks is not None:
        alerts = _RUNBOOK.sub(rf"\g<1>{runbooks.rstrip('/')}/\2", alerts)
    if grafana is not None:
        alerts = _DASHBOARD.sub(rf"\g<1>{grafana.rstrip('/')}\2", alerts)
    boards = dashboards() if runbooks is grafana is None else {}
    return {
        **{HERE / name: text for name, text in boards.items()},
        ALERTS: alerts,
        KUBERNETES / "prometheusrule.yaml": prometheus_rule(alerts),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or with ``--check`` say which are not as built (exit status 1)."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.build", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument(
        "--runbooks",
        metavar="URL",
        help="where on-call people read the files of dashboards/runbooks: the alerts link there",
    )
    parser.add_argument(
        "--grafana", metavar="URL", help="where Grafana is: the alerts link to the dashboard there"
    )
    options = parser.parse_args(arguments)
    built = files(options.runbooks, options.grafana)
    stale = [path for path, text in built.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if not options.check:
            path.write_text(built[path])
        said = "not as built" if options.check else "written"
        sys.stdout.write(f"{said}: {path.relative_to(HERE.parent)}\n")
    return 1 if options.check and stale else 0


def _indented(text: str, width: int) -> str:
    return "".join(
        f"{' ' * width}{line}" if line.strip() else line for line in text.splitlines(keepends=True)
    )


if __name__ == "__main__":
    sys.exit(main())
