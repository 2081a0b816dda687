"""Services on loopback: access control, connection limits, and bypassing proxies."""
