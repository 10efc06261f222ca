"""`python -m ckncuda.cli`: the `ckn` command."""

from .main import main

main()
