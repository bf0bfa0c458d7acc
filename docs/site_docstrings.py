"""Docstrings for the site: a configuration's help texts are its fields' docstrings, and `See the class.` is none."""

from __future__ import annotations

import ast
from typing import Any

from griffe import Attribute, Docstring, Extension, Function


class SiteDocstrings(Extension):
    """Reads the source; nothing is imported."""

    def on_function_instance(self, *, func: Function, **_: Any) -> None:
        """Drop a docstring that only points to the class."""
        if func.docstring is not None and func.docstring.value == "See the class.":
            func.docstring = None

    def on_attribute_instance(self, *, node: Any, attr: Attribute, **_: Any) -> None:
        """Take `field(metadata={"help": ...})` as the field's docstring."""
        call = getattr(node, "value", None)
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "field"):
            return
        metadata = next((k.value for k in call.keywords if k.arg == "metadata"), None)
        if isinstance(metadata, ast.Dict):
            for key, value in zip(metadata.keys, metadata.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "help" and isinstance(value, ast.Constant):
                    attr.docstring = Docstring(value.value, parent=attr)
