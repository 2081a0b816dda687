"""``ecomflow ui``: metrics, rows, dead letters and answers flow in; one page on loopback that shows them flows out.

``server.py`` listens, ``guard.py`` lets in who holds the token, ``app.py`` maps addresses to the four views. A view is a pure
function of its data (``*_view.py``); what is slow to read comes by ``readings.py``, off the page's own thread.
"""
