"""Plans embedding tables for a cluster that one does not have; see `__main__`."""
