"""Fast ways to compute what the backbone defines, apart from it: which segment has which, the most preferred first.

A way computes the numbers of its segment's `plain`, or objects. The tests hold every way in these tables to that.
"""

from ..backbone.attention import GlobalAttention, HybridScaleAttention, SelfGuidedAttention
from ..backbone.blocks import GlobalBlock, HybridScaleBlock, SelfGuidedBlock
from ..backbone.mlp import ConvMlp
from ..backbone.regional import RegionalAttention
from ..backbone.segment import Way
from ..backbone.stem import Downsample, Stem
from ..ops.dispatch import plain
from ..ops.native import use_kernels
from ..ops.pieces import keep_freed_memory
from . import batches, conv_strips, exported, fused, native, recomputed, strips, trained
from .explain import Taken, explain_ways
from .workers import conducted

__all__ = ["Taken", "explain_ways", "keep_freed_memory", "plain", "use_kernels"]

Stem.ways = {
    "exported": Way(exported.stem, exported.why_not_convolutions),
    "strips": Way(conducted(conv_strips.stem), conv_strips.why_not),
    "few_images": Way(batches.run, batches.why_not),
    "fused": Way(fused.stem, fused.why_not),
}
Downsample.ways = {
    "exported": Way(exported.chain, exported.why_not_convolutions),
    "strips": Way(conducted(conv_strips.downsample), conv_strips.why_not),
    "fused": Way(fused.chain, fused.why_not),
}
ConvMlp.ways = {
    "exported": Way(exported.mlp, exported.why_not),
    "recomputed": Way(recomputed.mlp, recomputed.why_not_mlp),
    "fused": Way(fused.mlp, fused.why_not),
}
HybridScaleAttention.ways = {
    "exported": Way(exported.attention, exported.why_not),
    "strips": Way(conducted(strips.hybrid_scale), strips.why_not_attention),
    "fused": Way(fused.attention, fused.why_not),
}
SelfGuidedAttention.ways = {
    "exported": Way(exported.attention, exported.why_not),
    "strips": Way(conducted(strips.self_guided), strips.why_not_attention),
    "fused": Way(fused.attention, fused.why_not),
}
RegionalAttention.ways = {"fused": Way(fused.attention, fused.why_not)}
GlobalAttention.ways = {
    "exported": Way(exported.attention, exported.why_not),
    "strips": Way(conducted(strips.all_to_all), strips.why_not_attention),
    "fused": Way(fused.attention, fused.why_not),
}
for _block in (HybridScaleBlock, SelfGuidedBlock, GlobalBlock):
    _block.ways = {
        "native": Way(native.block, native.why_not),
        "strips": Way(conducted(strips.block, least=2**20), strips.why_not_block),
        "trained": Way(trained.block, trained.why_not),
        "recomputed": Way(recomputed.block, recomputed.why_not_block),
    }
