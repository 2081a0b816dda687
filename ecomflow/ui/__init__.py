"""``ecomflow ui``: a web page on loopback that shows metrics, tables, dead letters and query results.

``server.py`` listens, ``guard.py`` checks the token, ``app.py`` maps addresses to the four views. A view (``views/``) is a pure
function of its data; slow reads run in other threads (``data/readings.py``).
"""
