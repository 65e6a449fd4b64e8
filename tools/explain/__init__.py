"""Why one sample got its score."""
