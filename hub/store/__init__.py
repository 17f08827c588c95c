"""What a hub keeps, behind small Protocols (`ports`); SQLite is the implementation at hand."""
