"""How fast and how small this version is, measured with real processes; `scripts/bench` runs it."""
