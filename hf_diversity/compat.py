"""Every shim for other versions or faults of the libraries underneath: link, fixed in, remove when."""

from __future__ import annotations

from torch import nn


def keep_timm_names(wrapper: nn.Module) -> None:
    """Have a TimmWrapper that was not made by `from_pretrained` save timm's own tensor names.

    transformers 5 writes names as they were in the checkpoint that was loaded, and as `timm_model.*` where there was
    none (`revert_weight_conversion` drops the PrefixChange then). timm cannot load such a file. What `from_pretrained`
    of a timm checkpoint would have remembered is put in place here; transformers loads both forms.

    Link: transformers/core_model_loading.py, `revert_weight_conversion`. Fixed in: not as of 5.24. Remove when: a
    TimmWrapper built from a config saves timm's names, or this library stops promising them.
    """
    try:
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    except ImportError:  # before the conversion mapping, names were written without the prefix
        return
    mapping = get_checkpoint_conversion_mapping("timm_wrapper")
    if mapping:
        wrapper._weight_conversions = mapping
