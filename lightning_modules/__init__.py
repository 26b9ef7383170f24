"""Tasks: what is learned, how, and how it is scored. Imports nothing: some of it is used without torch."""
