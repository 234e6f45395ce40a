"""Where events wait."""
