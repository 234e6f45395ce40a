"""How events go out."""
