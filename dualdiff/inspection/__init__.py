"""Facts about a path: what a file or folder is, and how it was made."""
