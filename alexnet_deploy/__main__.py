"""The command line as `python -m alexnet_deploy`, which is how torchrun starts it."""

from alexnet_deploy.cli import main

if __name__ == "__main__":
    main()
