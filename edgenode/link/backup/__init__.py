"""Backups of a state directory, and putting them back."""
