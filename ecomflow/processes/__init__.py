"""Processes of one state folder: their identities, the folder itself, and when to end."""
