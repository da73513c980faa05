"""`python -m raremap`."""

from raremap.cli import main

if __name__ == "__main__":
    main()
