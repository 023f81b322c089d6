"""Runs in each Python of a job under ``timers run``, whose PYTHONPATH has this folder.

Waits for torch, Ray or mpi4py to be imported (``_bootstrap.py``), and goes on to the
``sitecustomize`` that would have been found without this one. Written for any Python 3, because a
job may run any.
"""

import os
import sys

_here = os.path.dirname(__file__)
_auto = os.path.dirname(_here)
_chosen = os.environ.get("TIMERS_AUTO", "off")
if sys.version_info >= (3, 11) and _chosen not in ("", "off"):
    try:
        # Neither importlib.util nor the package timers: a process without them pays for neither.
        _loader = type(__loader__)("_bootstrap", os.path.join(_auto, "_bootstrap.py"))
        _module = type(sys)("_bootstrap")
        exec(_loader.get_code("_bootstrap"), _module.__dict__)  # noqa: S102  # a file of this package, as an import does
        _module.wait_for_modules(_chosen, os.path.dirname(os.path.dirname(_auto)))
    except Exception as error:  # noqa: BLE001  # whatever it is, the job starts as without us
        sys.stderr.write("timers: no automatic timers: %r\n" % (error,))  # noqa: UP031  # see above

# From here on as if this file had never been: where there is no other one, the import fails as it
# would have, which is no error to ``site``.
sys.path[:] = [entry for entry in sys.path if entry != _here]
sys.modules.pop("sitecustomize", None)
import sitecustomize  # noqa: E402, F401  # the next one, which is not this file
