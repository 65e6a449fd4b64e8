"""A run, or a comparison of several, as one HTML file and its plots."""
