"""The hub's certificate authority and what it keeps about the nodes it admitted."""
