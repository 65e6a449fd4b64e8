"""Command-line helpers. Nothing imports them."""
