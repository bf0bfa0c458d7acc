"""Docstrings for the site, read from the source: nothing is imported.

The help texts of a configuration are its fields' docstrings, `Example:` is a section of code, and a docstring that
only says `See the class.` is none.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from griffe import Attribute, Docstring, ExprCall, ExprDict, ExprKeyword, Extension, Function, Object


class SiteDocstrings(Extension):
    """See the module."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Give `Example:` the name by which the parser knows it."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)

    def on_function_instance(self, *, func: Function, **_: Any) -> None:
        """Drop a docstring that only points to the class."""
        if func.docstring is not None and func.docstring.value == "See the class.":
            func.docstring = None

    def on_attribute_instance(self, *, attr: Attribute, **_: Any) -> None:
        """Show `field(default=..., metadata={"help": ...})` as its default, with the help as docstring."""
        if not (isinstance(attr.value, ExprCall) and str(attr.value.function) == "field"):
            return
        given = {a.name: a.value for a in attr.value.arguments if isinstance(a, ExprKeyword)}
        metadata = given.get("metadata")
        if "default" in given and isinstance(metadata, ExprDict):
            texts = dict(zip(map(str, metadata.keys), map(str, metadata.values), strict=True))
            attr.value, attr.docstring = given["default"], Docstring(ast.literal_eval(texts["'help'"]), parent=attr)
