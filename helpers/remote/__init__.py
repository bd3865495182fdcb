"""An engine on another machine: the client of `python -m helpers serve`."""
