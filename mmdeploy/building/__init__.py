"""The build, outside its steps: schedule them, stage, serve, judge, publish."""
