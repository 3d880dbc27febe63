"""Recipe → plan: the steps of a build, each under a key made of everything that decides its result. Nothing is run."""
