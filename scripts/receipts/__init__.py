"""Checks a running system from outside: what it acknowledged is noted, and each receipt is held against what is there."""
