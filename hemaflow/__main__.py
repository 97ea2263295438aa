"""`python -m hemaflow` is the command `hemaflow`."""

from hemaflow.flows.cli.main import main

if __name__ == "__main__":
    main()
