"""``python -m copycat.cli`` is ``copycat``."""

from copycat.cli import main

main()
