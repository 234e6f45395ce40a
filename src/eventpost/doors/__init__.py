"""How events come in."""
