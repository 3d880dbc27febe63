"""``python -m mmdeploy``: the command line."""

from mmdeploy.cli import main

main()
