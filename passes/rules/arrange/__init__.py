"""The last arrangement of views before groups are formed: what moves elements does so once."""
