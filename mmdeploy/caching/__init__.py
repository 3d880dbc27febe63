"""Plans a feature cache: replays a trace of requests through a simulated response cache, and says what to keep."""
