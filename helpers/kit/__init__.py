"""Making and serving kits: all that a room without a network needs, in one folder.

`targets` (systems and Pythons, as wheels' names write them), `wheels` (the suite's packages for
one of them), `make` (the folder), `start` (its START.md), `serve` (the folder over HTTP). What a
learner's machine does with a kit is in `helpers.install.kit`.
"""
