"""`python -m clearppo.engines.tether PARENT COMMAND ...`: become COMMAND, and be told when PARENT is gone.

What holds a process of a cluster may itself be killed, and a process that trains on for nobody holds its GPU and the
run's directory. Linux then sends SIGTERM, so that a run ends as it always does, with its checkpoint. A thread that is
about to start a process cannot ask for that (between fork and exec a program of several threads may wait for ever), and
Ray hands down that SIGINT is blocked: both are put right here, and then this is another program.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, *words = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != int(parent):  # gone before it could be asked for
            sys.exit(128 + signal.SIGTERM)
    try:
        os.execvp(words[0], words)
    except OSError as error:
        sys.exit(f"error: {words[0]} cannot be started: {error.strerror}.")


if __name__ == "__main__":
    main()
