"""Who is who: names in certificates, join tokens, TLS credentials, signed documents."""
