"""Disk and clock of an unmodified program under control: a preloaded library, its journal, and what a power cut leaves."""
