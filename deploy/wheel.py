"""Build hook: puts winnow.py into the wheel as the package's __init__.py."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WinnowFirst(BuildHookInterface):  # type: ignore[type-arg]
    """Asked by hatchling before it builds."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """version: "standard" or "editable"."""
        if version == "standard":
            build_data["force_include"]["winnow.py"] = "winnow/__init__.py"
            build_data["force_include"]["py.typed"] = "winnow/py.typed"
