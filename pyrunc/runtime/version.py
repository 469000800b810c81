"""The version of pyrunc."""

import os


def own_version() -> str:
    """The version of pyrunc."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("pyrunc")
    except PackageNotFoundError:  # a checkout, which pip has not seen
        import tomllib

        with open(os.path.join(os.path.dirname(__file__), "../../pyproject.toml"), "rb") as file:
            return str(tomllib.load(file)["project"]["version"])
