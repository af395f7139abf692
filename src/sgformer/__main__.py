"""``python -m sgformer`` is the command ``sgformer``."""

from .cli import main

if __name__ == "__main__":
    main()
