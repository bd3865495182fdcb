"""Write run times, measured on a calmer machine than the outputs, into the lessons' metadata.

python tests/notebooks/write_run_seconds.py 00=28.2 10=25.0 …
"""

import sys

import nbformat
from check_form import find_notebooks, write
from form_rules import RUN_SECONDS

if __name__ == "__main__":
    for argument in sys.argv[1:]:
        number, _, seconds = argument.partition("=")
        lessons = [path for path in find_notebooks() if path.name.startswith(number)]
        if len(lessons) != 1 or not seconds:
            sys.exit(f"{argument!r} is not a notebook's number and its seconds, such as 20=19.9")
        node = nbformat.v4.reads(lessons[0].read_text("utf-8"))
        node.metadata[RUN_SECONDS] = max(1, round(float(seconds)))
        write(lessons[0], node)
