"""SQLite kit of both ends: one connection with group commit, migrations, segment logs and cursors."""
