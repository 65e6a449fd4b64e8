"""The network: embeddings -> GSU -> ESU -> head."""
