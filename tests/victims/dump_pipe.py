"""Write a recorded dump to ``STEMdump.RANK`` for each line that comes in ``STEMRANK.pipe``.

In place of a rank of NCCL, which does the same.
"""

from __future__ import annotations

import json
import os
import pickle
import sys

from support.recorded import recorder_dump


def main() -> None:
    stem, rank = sys.argv[1:3]
    pipe = f"{stem}{rank}.pipe"
    os.mkfifo(pipe)
    dump = pickle.dumps(json.loads(recorder_dump("skip", 0)), 2)
    descriptor = os.open(pipe, os.O_RDWR)
    print("ready", flush=True)
    while os.read(descriptor, 128):
        with open(f"{stem}dump.{rank}", "wb") as file:
            file.write(dump[:100])
            file.flush()
            file.write(dump[100:])


if __name__ == "__main__":
    main()
