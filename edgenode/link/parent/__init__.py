"""What whoever has a parent needs, edges and hubs alike: joining its fleet, keeping the identity, dialing it."""
