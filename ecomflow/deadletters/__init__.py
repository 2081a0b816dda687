"""The dead letters in the bucket: reading them, grouping them by cause, and replaying them."""
