"""The command line. Every module here is light to import; what a command needs is imported when it runs."""

from clearppo.cli.main import main

__all__ = ["main"]
