"""Frozen domain types: names, lanes, tasks, problems. No I/O, no generated code."""
