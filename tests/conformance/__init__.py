"""Suites that others wrote, run against us."""
