"""Write run times that were measured elsewhere into the lessons' metadata.

    python tests/notebooks/write_run_seconds.py 00=28.2 10=25.0 …

run_notebook.py does it by itself. This is for times taken on a calmer machine than the one that
made the outputs, such as the table that it prints.
"""

from __future__ import annotations

import sys

import nbformat
from check_form import find_notebooks, write
from form_rules import RUN_SECONDS


def main(arguments: list[str]) -> int:
    """Write them; return the exit status."""
    for argument in arguments:
        number, _, seconds = argument.partition("=")
        lessons = [path for path in find_notebooks() if path.name.startswith(number)]
        if len(lessons) != 1 or not seconds:
            print(f"{argument!r} is not a notebook's number, =, and its seconds, such as 20=19.9")
            return 1
        node = nbformat.v4.reads(lessons[0].read_text("utf-8"))
        node.metadata[RUN_SECONDS] = max(1, round(float(seconds)))
        write(lessons[0], node)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
