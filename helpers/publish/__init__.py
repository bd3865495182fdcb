"""The notebooks as they are published: the site of the suite, and slides for a room.

Both are made from what is committed, outputs and all; nothing is run again. `site` builds the pages
in `docs/`, `slides` gives presentations for reveal.js, and `links` looks whether all that a folder
of pages refers to is in it.
"""

from __future__ import annotations

from helpers.publish.links import faults
from helpers.publish.notebooks import published

__all__ = ["faults", "published"]
