"""The page's HTML and SVG, made of what was read. Pure."""
