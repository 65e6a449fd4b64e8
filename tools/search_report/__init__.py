"""What a run's search picks, and what another would have picked."""
