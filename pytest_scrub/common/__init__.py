"""What every room needs: calls of functions, text that is safe to show, random streams, whole
files."""
