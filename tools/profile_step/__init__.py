"""Where a training step's time goes, and how much of the search the pipeline hides."""
