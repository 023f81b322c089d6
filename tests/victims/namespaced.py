"""Run a command as the first process of a pid namespace, and end as it did, by its signal if so.

To be started by ``unshare --pid --mount`` (unshare(1)); that one's own ``--fork`` does not always
pass on which signal it was. Arguments: the command.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys


def main() -> None:
    pid = os.fork()
    if pid == 0:
        subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
        os.execvp(sys.argv[1], sys.argv[1:])
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
