"""Index a folder in one process after another: `python -m tests.documents.indexing_child NOTES
INDEX`.

For each line that comes in, a fork of this process begins; its process id is printed, and then its
exit status. It has the modules already, so a kill meets it at work, not at importing them. A number
in the line is that of the statement of SQL before which it kills itself.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys

import helpers.documents.vectors  # noqa: F401 (takes long)
from tests.documents.support import Counting, index


def _run(notes: str, place: str, fatal: int) -> None:
    count = itertools.count(1)

    def note(_frame: object, event: str, called: object) -> None:
        statement = event == "c_call" and getattr(called, "__name__", "").startswith("execute")
        if statement and next(count) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    if fatal:
        sys.setprofile(note)
    with index(place, embeddings=Counting(pause=0.001), show_progress=False) as ours:
        ours.sync(notes)


if __name__ == "__main__":
    for line in sys.stdin:
        if not (child := os.fork()):
            _run(sys.argv[1], sys.argv[2], int(line))
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
