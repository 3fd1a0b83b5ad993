"""`python -m dualdiff`, so that `accelerate launch -m dualdiff unet train` works too."""

from dualdiff.cli import main

if __name__ == "__main__":
    main()
