"""Entry point of `alexnet-deploy` and of `python -m alexnet_deploy`, which torchrun starts."""

from alexnet_deploy.core.process.interruption import install, is_interrupted, leave


def main() -> None:
    """Run the command line; signal handlers are installed before the rest of the program is imported."""
    install()
    from alexnet_deploy.cli import main as run

    try:
        run()
    except (KeyboardInterrupt, SystemExit):
        if not is_interrupted():
            raise
        leave()


if __name__ == "__main__":
    main()
