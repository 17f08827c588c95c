"""What both ends of a link must agree on. The only part of the edge that the hub may import, beside the stubs."""
