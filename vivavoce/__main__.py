"""``python -m vivavoce`` is the same as ``vivavoce``."""

from vivavoce.apps.cli import console

if __name__ == "__main__":
    console()
