"""Tests of `helpers.remote`."""
