"""One module per group of commands. A command parses its arguments, makes one call, and prints one table or sentence."""
