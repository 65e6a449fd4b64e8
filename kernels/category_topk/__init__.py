"""The most recent K behaviours of the target's category (SIM-hard, arXiv 2006.05639)."""
