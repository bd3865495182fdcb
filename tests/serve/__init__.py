"""Tests of `helpers.serve`."""
