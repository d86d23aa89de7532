"""The command line as `python -m cxrkit`, and so as `torchrun ... -m cxrkit`."""

from cxrkit.cli import main

main()
