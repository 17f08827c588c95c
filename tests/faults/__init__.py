"""Faults under real load: real processes that die, stop and lose their network; what was acknowledged must survive."""
