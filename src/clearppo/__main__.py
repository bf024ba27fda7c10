"""`python -m clearppo`: the command line without the installed script; torchrun starts it so."""

from clearppo.cli import main
from clearppo.engines.environment import ending_quietly

if __name__ == "__main__":
    with ending_quietly():
        main()
