"""How answers are scored, asked for and timed: what passes, gates and searches share."""
