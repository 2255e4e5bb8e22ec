"""``python -m asft_lightning``."""

from asft_lightning.cli import main

if __name__ == "__main__":
    main()
