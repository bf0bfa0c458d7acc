"""Models by name: an architecture of timm, a folder or a Hub id."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import transformers
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, TimmWrapperConfig

from . import cifar_models, small_models  # noqa: F401  register their architectures in timm


def is_timm_name(name: str) -> bool:
    """Whether it is an architecture of timm, this package's among them, and no folder here."""
    return timm.is_model(name) and not Path(name).expanduser().is_dir()


def build_timm_model(
    name: str, pretrained: bool = False, weights: Path | None = None, model_args: Mapping[str, Any] | None = None
) -> Any:
    """Create a timm model.

    Args:
        name: of timm.
        pretrained: with timm's published weights.
        weights: a file of weights, in place of the published ones.
        model_args: further arguments of `timm.create_model`.
    """
    arguments = dict(model_args or {})
    if weights is not None:
        arguments |= {"pretrained": True, "pretrained_cfg_overlay": {"file": str(weights)}}
    model: Any = timm.create_model(name, **{"pretrained": pretrained, **arguments})
    model.pretrained_cfg.pop("file", None)  # a path of this machine, which is nothing that a checkpoint should keep
    return model


def load_config(
    name: str | Path,
    trust_remote_code: bool = False,
    settings: Mapping[str, Any] | None = None,
    instead: str = "a timm name",
) -> PreTrainedConfig:
    """Read the configuration of a transformers model, or of timm's in a folder or on the Hub.

    Args:
        name: a folder or a Hub id.
        trust_remote_code: run the Python code of a model that brings its own.
        settings: values that take the place of the configuration's.
        instead: what else may be typed where `name` leads nowhere.

    Raises:
        ValueError: there is none, it cannot be read, or it needs code; the message says what to type.
    """
    name, folder = str(name), Path(name).expanduser()
    near = [] if folder.exists() or "/" in name else difflib.get_close_matches(name, timm.list_models(), 3, cutoff=0.8)
    if near:  # the Hub need not be asked, nor waited for
        raise ValueError(
            f"model {name!r} is neither a timm name nor a folder: did you mean {', '.join(near)}? For one of the Hub "
            f"type OWNER/{name}"
        )
    place = str(folder) if folder.is_dir() else name
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            place, trust_remote_code=trust_remote_code, **(settings or {})
        )
        return config
    except Exception as error:
        # Whatever went wrong (with and without a network), the user's question is the same
        cause = f"{type(error).__name__}: {first_line(error)}"
        if "trust_remote_code" in str(error):
            problem = (
                "needs Python code from its repository, which is not run unasked; read that code and, if you trust "
                "it, type trust_remote_code=True, or --trust-remote-code where a command has it"
            )
        elif (folder / "config.json").is_file():
            problem = f"has a config.json that cannot be used ({cause})"
        else:
            problem = (
                "is neither a local folder with config.json nor on the Hub; type a path that exists, a Hub id or "
                f"{instead} ({cause})"
            )
        raise ValueError(f"model {name!r} {problem}") from error


def model_class(config: PreTrainedConfig, trust_remote_code: bool = False) -> Any:
    """The class of the model that a configuration describes.

    Args:
        config: from `load_config`.
        trust_remote_code: take the code that the configuration names before transformers' own.

    Returns:
        A subclass of `PreTrainedModel`, or an auto class. None if the configuration names a class that transformers
        does not have, and whose kind its name does not tell.
    """
    named = str(next(iter(getattr(config, "architectures", None) or ()), ""))
    code = getattr(config, "auto_map", None) or {}
    autos = [auto for auto in code if auto.startswith("AutoModel") and hasattr(transformers, auto)]
    if autos and trust_remote_code:
        return getattr(transformers, next((auto for auto in autos if str(code[auto]).endswith(f".{named}")), autos[0]))
    if not named:
        if not isinstance(config, TimmWrapperConfig):
            return AutoModel
        return transformers.TimmWrapperForImageClassification if config.num_labels else transformers.TimmWrapperModel
    found = getattr(transformers, named, None)
    if isinstance(found, type) and issubclass(found, PreTrainedModel):
        return found
    kind = re.search(r"For[A-Z]\w+$", named)
    return getattr(transformers, f"AutoModel{kind.group()}", None) if kind else None


def refuse_random_values(model: PreTrainedModel, report: Mapping[str, Any], source: str | Path) -> None:
    """Raise where `from_pretrained` warns: the checkpoint lacks tensors, which it makes up.

    Args:
        model: what it returned.
        report: what it returned with `output_loading_info=True`.
        source: what the user typed.

    Raises:
        ValueError: tensors are missing.
    """
    missing = sorted(report["missing_keys"])
    if missing:
        names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ValueError(
            f"model {str(source)!r} lacks {len(missing)} tensors of {type(model).__name__} ({names}): random values "
            "would stand in their place; type a checkpoint that holds them all"
        )


def untrained_model(name: str, image_size: int | None = None) -> Any:
    """The architecture of a timm name, a Hub id or a folder, with random weights.

    Args:
        name: where it is described.
        image_size: height and width of its images, where it is made for one size.

    Raises:
        ValueError: there is no such model.
    """
    if is_timm_name(name):
        try:
            return build_timm_model(name, model_args={"img_size": image_size} if image_size else {})
        except TypeError:  # convolutions take any size, and no argument
            return build_timm_model(name)
    config: Any = load_config(name)
    if image_size is not None and hasattr(config, "image_size"):
        config.image_size = image_size
    kind = model_class(config) or AutoModel
    return kind.from_config(config) if hasattr(kind, "from_config") else kind(config)


def first_line(error: Exception) -> str:
    """The first line of an error's message, which is the cause in those of transformers and timm."""
    return (str(error).strip().splitlines() or ["no message"])[0]
