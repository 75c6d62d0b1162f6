"""What a checkpoint of no supported family looks like, as far as its keys tell."""

import re
from collections.abc import Iterable
from typing import Final, NoReturn

from scalenet_cli.errors import UnknownArchitecture
from scalenet_cli.families.sources.checkpoint import Checkpoint

SUPPORTED: Final = (
    "supported are timm ViT, DeiT and Swin checkpoints and Hugging Face decoder folders"
)
# A kind of model, and a key that no other kind has. The first that is found is named, so those that
# others contain (a CLIP holds a ViT) come first. (^|[a-z_]\.) is the root, or
# below a prefix, but not below a stage of a Swin.
_SIGNS: Final[tuple[tuple[str, str], ...]] = (
    ("a LoRA of PEFT, without the model it belongs to", r"lora_A\."),
    ("OpenAI's CLIP", r"visual\.transformer\.resblocks\.|visual\.layer1\."),
    ("a Hugging Face CLIP or SigLIP", r"vision_model\.encoder\.layers\."),
    ("a BEiT", r"(^|[a-z_]\.)blocks\.0\.attn\.(q_bias|relative_position_bias_table)$"),
    ("an EVA", r"(^|[a-z_]\.)blocks\.0\.(attn\.(q_proj|rope)\.|mlp\.w12\.)"),
    ("a ViT with relative positions, such as SAM's", r"(^|[a-z_]\.)(blocks\.0\.attn\.)?rel_pos"),
    ("a Hiera", r"(^|[a-z_]\.)blocks\.\d+\.proj\.weight$"),
    ("a Swin V2", r"attn\.(logit_scale|cpb_mlp\.|meta_mlp\.)"),
    ("a CaiT", r"(^|[a-z_]\.)blocks_token_only\."),
    ("a masked autoencoder with its decoder", r"(^|\.)decoder_blocks\."),
    ("an AIMv2, whose MLP has a gate", r"(^|[a-z_]\.)blocks\.0\.mlp\.fc1_g\."),
    ("timm's ViT with parallel branches", r"(^|[a-z_]\.)blocks\.0\.attns\.0\."),
    ("timm's ViT with attention and MLP in one layer", r"(^|[a-z_]\.)blocks\.0\.in_proj\."),
    ("a Hugging Face ViT, DeiT or Swin", r"embeddings\.patch_embeddings\.projection\."),
    ("torchvision's ViT", r"(^|\.)encoder\.layers\.encoder_layer_0\."),
    ("torchvision's Swin", r"(^|\.)features\.1\.0\.attn\.qkv\."),
    ("an OpenMMLab ViT or Swin", r"patch_embed\.projection\."),
    ("a ConvNeXt", r"(^|\.)stages\.\d+\.(blocks\.)?\d+\.(conv_dw|dwconv)\."),
    ("an EfficientNet or MobileNet", r"(^|\.)conv_stem\.|(^|\.)features\.0\.0\.weight$"),
    ("a RegNet", r"(^|\.)s1\.b1\."),
    ("a ResNet", r"(^|\.)layer1\.0\.conv1\."),
    ("a VGG or AlexNet", r"(^|\.)features\.0\.weight$"),
    ("a DenseNet", r"denseblock1\."),
    ("a GPT-2", r"(^|\.)h\.0\.attn\.c_attn\."),
    ("a T5", r"(^|\.)encoder\.block\.0\.layer\.0\.SelfAttention\."),
    ("a BERT", r"encoder\.layer\.0\.attention\.self\."),
)


def refuse_lookalike(checkpoint: Checkpoint) -> None:
    """Nothing in the keys is of a kind of model that is known and not supported.

    Raises:
        UnknownArchitecture: naming that kind.
    """
    kind, sign = _kind(checkpoint.tensors)
    if kind is not None:
        raise UnknownArchitecture(
            f"the keys look like those of {kind}, such as {sign}",
            where=checkpoint.where,
            hint=SUPPORTED,
        )


def refuse_unknown(checkpoint: Checkpoint) -> NoReturn:
    """For keys that no family reads.

    Raises:
        UnknownArchitecture: naming the kind of model that they show, or the first of them.
    """
    refuse_lookalike(checkpoint)
    raise UnknownArchitecture(
        "the keys are of no supported family; the first are "
        f"{', '.join(list(checkpoint.tensors)[:4])}",
        where=checkpoint.where,
        hint=SUPPORTED,
    )


def _kind(keys: Iterable[str]) -> tuple[str | None, str]:
    known = list(keys)
    for kind, pattern in _SIGNS:
        sign = next((key for key in known if re.search(pattern, key)), None)
        if sign is not None:
            return kind, sign
    return None, ""
