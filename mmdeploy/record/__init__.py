"""What a build leaves behind, and who watches it."""
