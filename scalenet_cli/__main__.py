"""``python -m scalenet_cli``."""

from scalenet_cli.cli.app import script

if __name__ == "__main__":
    script()
