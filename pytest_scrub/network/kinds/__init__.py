"""The kinds of component that a transformer has."""
