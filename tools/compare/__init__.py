"""Train a list of variants over several seeds, evaluate each, and make one table and plot."""
