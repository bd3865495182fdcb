"""`python -m helpers`: make the environment, then open the lab, test, lint, or look around.

Nothing here but the standard library, and no syntax newer than Python 3.8, so that an older
Python can still say in one line what is wrong.
"""

from __future__ import annotations

import sys

_OLDEST = (3, 11)

if sys.version_info[:2] < _OLDEST:
    sys.stderr.write(
        "error: this is Python {}.{}, and the suite needs 3.11 or newer: run it with a newer one, "
        "e.g. python3.12 -m helpers\n".format(*sys.version_info[:2])
    )
    raise SystemExit(2)

from helpers.cli import main  # noqa: E402  (not before the version is known to do)

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
