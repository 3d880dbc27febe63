"""The recipe's samples, and the media files that they come from."""
