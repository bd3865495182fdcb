"""Tests of what `workshop/` starts."""
