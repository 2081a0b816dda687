"""What a person sees in the terminal: tables, sentences, progress and sparklines."""
