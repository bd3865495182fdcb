"""The child process of a contestant: loads the one that is named, and calls its methods."""

from __future__ import annotations

import sys

from helpers.bench.contestants import make
from helpers.children import Parent

if __name__ == "__main__":
    contestant = make(sys.argv[1])
    Parent().serve(lambda request: getattr(contestant, request[0])(*request[1:]))
