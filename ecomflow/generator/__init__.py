"""A coherent shop's events, valid and faulty, and their publisher."""
