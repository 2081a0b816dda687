"""What listens on this machine: who may speak to it, and how it is reached past proxies."""
