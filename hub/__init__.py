"""The hub: sees the agents of a fleet of edge nodes and moves work between them."""
