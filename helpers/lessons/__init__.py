"""What lessons need beside models: checkpoints of exercises, and answers recorded elsewhere.

The rooms behind it: `checkpoints`, `progress` (the line that a checkpoint writes where a learner
wants that), `standing` (a teacher reads those lines: who is where), `recorded` (answers).

All of it imports with the standard library alone: a teacher needs no environment to look.
"""

from __future__ import annotations

from helpers.lessons.checkpoints import checkpoint
from helpers.lessons.recorded import RecordedAnswer, read_answers, recorded_answers, write_answers
from helpers.lessons.standing import ClassStanding, class_standing, reached

__all__ = [
    "ClassStanding",
    "RecordedAnswer",
    "checkpoint",
    "class_standing",
    "reached",
    "read_answers",
    "recorded_answers",
    "write_answers",
]
