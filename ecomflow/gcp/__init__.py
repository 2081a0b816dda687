"""Google's services: clients, credentials, permissions, and one translation of their errors."""
