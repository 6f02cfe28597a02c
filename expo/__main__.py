"""python -m expo: the same command line, for PATHs on which another tool owns the name `expo`."""

import sys

try:
    from expo.cli.main import main
except ModuleNotFoundError as error:
    if error.name not in ("expo.cli", "expo.cli.main"):
        raise
    sys.exit("expo is not installed from this checkout. In its folder: pip install -e .")

if __name__ == "__main__":
    main()
