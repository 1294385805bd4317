"""LeGrad: the positive gradients of the score of each transformer block at its attention weights."""

from typing import Annotated

from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import TextFormat
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods._layer_maps import upsample
from xplain.models.layouts import LayoutText
from xplain.oracle import Oracle
from xplain.oracle.block_scores import differentiate_block_scores
from xplain.oracle.token_blocks import Pool


def read_block_count(text: str) -> int | None:
    """Return the number of blocks that a text names; None for all. Raises ValueError for any other text."""
    if text == "all":
        return None
    count = int(text)
    if count < 1:
        raise ValueError(text)
    return count


BlockCount = Annotated[str, TextFormat("all or a number of blocks, from the last one back", read_block_count)]


@method(
    "legrad",
    undecided={"sensitivity-a": "requires attention"},
    paper=Paper(
        "LeGrad: an explainability method for vision transformers via feature formation sensitivity",
        "Walid Bousselham, Angie Boggust, Sofian Chaybouti, Hendrik Strobelt, Hilde Kuehne",
        2025,
        "ICCV",
        "2404.03214",
    ),
    deviations="All blocks by default; the authors' program takes the last two. The mean of the blocks, not their sum, and no min-max "
    "scaling. For texts, the score is the logit: the similarity times the scale of the model. If an attention with one query of its "
    "own reads out the tokens, as in SigLIP, the norm before it is kept, which the program leaves out, and nothing is cut where the map "
    "of an empty prompt is large. Bilinear upsampling to the image, after the mean.",
)
def legrad(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    layers: BlockCount = "all",
    pool: Pool = "mean",
    layout: LayoutText = "auto",
) -> Attribution:
    """Average the positive gradients of the score of each transformer block at its attention weights.

    φ = up(mean over blocks l of E^l), where E^l_k = mean over heads h and queries q of max(∂s^l / ∂A^l_hqk, 0) for the key k, and s^l
    is the score of the head for the pooled tokens that block l returns. The gradients are not multiplied by A, and the score of a
    block reaches its own attention only. The keys of class and register tokens are dropped. Never negative. Returns (B, 1, H, W).
    If an attention with one query of its own reads out the tokens, as in SigLIP, the gradients are those at its weights.

    x: (B, C, H, W) in [0, 1]. y: (B,).
    layers: the number of blocks, from the last one back, or ``all``.
    pool: ``mean`` of all tokens with the class token, as in the authors' program; ``own``: what the head of the model reads, such as
    the class token. No effect if an attention reads out the tokens.
    layout: the layout of the tokens, ``HxW`` or ``HxW+PREFIX``; ``auto``: decided by how they respond to changes of image regions.
    Raises UsageError for models without attention over one grid of tokens in a known order, and for models whose head cannot be
    called on the tokens of other blocks.
    """
    last = read_block_count(layers)
    result = differentiate_block_scores(oracle, x, y, "legrad", last=last, pool=pool, layout=layout)
    blocks = result.layout.to_map(result.keys.mean(dim=1)[:, :, None])
    return Attribution(upsample(blocks, x))
