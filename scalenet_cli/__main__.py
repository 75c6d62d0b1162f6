"""``python -m scalenet_cli``."""

from scalenet_cli.cli.app import main

if __name__ == "__main__":
    main()
