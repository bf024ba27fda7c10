"""`python -m clearppo.cli`: the command line without the installed script."""

from clearppo.cli import main

if __name__ == "__main__":
    main()
