"""The embedded Pub/Sub: topics and subscriptions in one process, for Google's own clients, stored in a log."""
