"""``python -m mvq``."""

from mvq.cli import main

if __name__ == "__main__":
    main()
