"""What one process knows of another: the state folder that they share, identities, and when to end."""
