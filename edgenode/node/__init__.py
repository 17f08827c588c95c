"""The edge service: registry, tasks, messages, the link to the hub, and the composition that makes a node of them."""
