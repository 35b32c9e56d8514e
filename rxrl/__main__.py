"""`python -m rxrl`: the same as the `rxrl` command."""

from rxrl.cli.main import main

if __name__ == "__main__":
    main()
