"""`python -m clearppo`: the command line without the installed script; torchrun starts it so."""

from clearppo.cli import main

if __name__ == "__main__":
    main()
