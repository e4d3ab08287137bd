"""``python -m surco``: the command ``surco``."""

from surco.cli import entry

if __name__ == "__main__":
    entry()
