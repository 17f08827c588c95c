"""Agent2Agent (A2A 1.0): the node and its agents as A2A agents, and A2A agents as agents here. Needs the extra `a2a`."""
