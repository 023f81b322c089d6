"""``python -m observability``: the ``timers`` command where its script is not in PATH."""

from .cli.main import main

main(prog_name="timers")
