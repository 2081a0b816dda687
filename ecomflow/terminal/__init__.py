"""Terminal output: tables, sentences, progress and sparklines."""
