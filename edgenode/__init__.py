"""The edge node: agents on one device find each other, hand over work and publish, with or without a network."""

__version__ = "0.1.0"
