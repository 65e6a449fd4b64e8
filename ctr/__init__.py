"""Training and evaluation of CTR models over lifelong behaviour histories."""
