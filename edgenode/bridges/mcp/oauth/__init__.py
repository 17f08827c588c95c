"""Tokens for mounted MCP servers, by OAuth."""
