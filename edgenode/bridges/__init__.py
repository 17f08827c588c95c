"""Agents that speak other protocols, and the node for programs that do: each bridge runs in a process of its own."""
