"""Content too large for a payload, kept as files beside a store, by edges and hubs."""
