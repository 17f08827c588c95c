"""The Model Context Protocol: the node as a server of tools, and servers of tools as agents. Needs the extra `mcp`."""
