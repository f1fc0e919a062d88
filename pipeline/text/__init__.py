"""Text from outside: files of text, their formats, names for libraries, and what is shown."""
