"""HTML pages, charts and players."""
