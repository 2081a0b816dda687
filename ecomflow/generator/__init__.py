"""Events of a simulated shop, valid and invalid, and their publisher."""
