"""Runs the command line from a checkout without installing it: `python cli.py check rules/delta.rule`."""

from ruledsl.cli.app import main

if __name__ == "__main__":
    main()
