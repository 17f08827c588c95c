"""Sans-IO cores: state in, `handle(event, now) -> effects` and `next_deadline()` out. No clock, no chance, no I/O."""
