"""`python -m batchchat` is the command line."""

from batchchat.cli import main

main()
