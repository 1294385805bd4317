"""``python -m xplain`` and the ``xplain`` command."""

import sys


def main() -> None:
    """Run the command line on ``sys.argv`` and leave with its exit code."""
    from xplain.cli.app import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
