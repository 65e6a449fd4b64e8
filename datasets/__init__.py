"""Raw tables in, prepared store out. See docs/store_format.md for the store."""
