"""``python -m sgformer`` is the command ``sgformer``."""

from sgformer_cli import main

if __name__ == "__main__":
    main()
