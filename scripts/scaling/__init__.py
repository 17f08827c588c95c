"""A hub with very many simulated edges in one process: what each costs, and what grows."""
