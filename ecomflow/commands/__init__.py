"""One module a group of commands. A command parses, defers its imports, makes one call, and shows one table or sentence."""
