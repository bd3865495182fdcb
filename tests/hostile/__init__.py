"""Uses that end, or once ended, the process: one module for each thing that is hostile in them.

To add one, write a function under `@use(name, expectation)`. `test_never_kills.py` runs it in a
fresh interpreter, in an empty folder, as `python -m tests.hostile GROUP NAME` does by hand.
"""
