"""Faults planted in the kernels' source, each with what has to find it.

"numbers": wrong results, poison that shows, or a message of the shim, in `kernel_checks.py`. "race": ThreadSanitizer.
"address": AddressSanitizer or UBSan. Sanitisers run `shim/all_kernels.cpp`.
"""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """One text of a file replaced by another."""

    name: str
    file: str
    old: str
    new: str
    found_by: str = "numbers"


_GATE_UP_BARRIER = """  __syncthreads();
  if (warp != 0) return;
  quantize_group(chunk_unit"""
FAULTS = [
    # order of threads
    Fault("no barrier before gate and up meet", "decode.cuh", _GATE_UP_BARRIER, _GATE_UP_BARRIER[19:], "race"),
    Fault("no barrier before a batch's parts are added", "batch.cuh",
          "groups, parts);\n    __syncthreads();", "groups, parts);", "race"),
    Fault("no barrier before a batch's parts are overwritten", "batch.cuh",
          "add_parts(parts, column, row);\n    __syncthreads();", "add_parts(parts, column, row);", "race"),
    Fault("no barrier in the norm", "layer.cuh", "= sum;\n  __syncthreads();", "= sum;", "race"),
    Fault("no barrier behind the scores of groups", "route.cuh", "of_group[g] = score;\n  }\n  __syncwarp();",
          "of_group[g] = score;\n  }", "race"),
    Fault("every block writes the first group", "decode.cuh",
          "h + u64(pair) * (s.inter / kGroup) + chunk);", "h + u64(pair) * (s.inter / kGroup));", "race"),
    Fault("shuffle in divergent code", "dot_panel.cuh",
          "const u32 second = __shfl_sync(", "u32 second = 0;\n  if (quad) second = __shfl_sync("),
    Fault("early return before a barrier", "decode.cuh", "  if (lane < 4)\n#pragma unroll\n    for (int i = 0; i < 4; ++i) parts[split][panel][4u * lane + i] = y[i];",
          "  if (lane >= 4) return;\n  for (int i = 0; i < 4; ++i) parts[split][panel][4u * lane + i] = y[i];"),
    # which bytes
    Fault("plane 0 off by four bytes", "record.cuh", "p.plane[0] = base + metadata + plane;", "p.plane[0] = base + metadata + plane - 4;"),
    Fault("plane 0 off by a group", "record.cuh", "p.plane[0] = base + metadata + plane;", "p.plane[0] = base + metadata + plane + 128;"),
    Fault("planes of the lower bits swapped", "dot_panel.cuh", "dot_nibbles(row[2], row[3], xs)", "dot_nibbles(row[3], row[2], xs)"),
    Fault("planes of the upper bits swapped", "dot_panel.cuh", "dot_nibbles(row[0], row[1], xs)", "dot_nibbles(row[1], row[0], xs)"),
    Fault("both halves of a group read from the first", "dot_panel.cuh", "load16(plane[k] + 64u * v)", "load16(plane[k])"),
    Fault("scales and minima exchanged between other lanes", "dot_panel.cuh", "from ^ 2u", "from ^ 3u"),
    Fault("scales taken for minima", "dot_panel.cuh", "quad & 1u ? GroupMeta", "quad & 2u ? GroupMeta"),
    Fault("the last groups not masked", "dot_panel.cuh", "groups - 1u), at + mine < groups)", "groups - 1u), true)"),
    Fault("the last groups forgotten", "dot_panel.cuh", "if (at < groups) sum.add", "if (false) sum.add"),
    Fault("a lane's last group not its own", "dot_panel.cuh", "at + mine < groups ? 0 :", "at + mine < groups ? 1 :"),
    Fault("a warp sees every group", "dot_panel.cuh", "u32 at = kLaneGroups * split;", "u32 at = 0;"),
    Fault("gate and up panels exchanged", "decode.cuh", "row_sum(parts, step * half + step - 1u, row)", "row_sum(parts, 2u * half, row)"),
    Fault("the second token's activations taken from the first", "decode.cuh", "x + u64(pair / s.top_k) * groups", "x"),
    Fault("a missing expert taken for slot 0", "decode.cuh", "slot < 0 ? nullptr : pairs.segments + 4u * u32(slot)",
          "pairs.segments + 4u * u32(slot < 0 ? 0 : slot)"),
    Fault("biases of gate and up exchanged", "decode.cuh", "s.gated ? s.inter + unit : unit", "unit"),
    Fault("biases behind the record's padding", "record.cuh", "kGroupMeta + kGroupPlane);  // metadata, plane 0", "kGroupPlane);"),
    Fault("a bfloat16 pair's halves exchanged", "dot_panel.cuh", "i & 1 ? pair & 0xffff0000u : pair << 16", "i & 1 ? pair << 16 : pair & 0xffff0000u"),
    # arithmetic
    Fault("table entries in another order", "codes.cuh", "0x7362)),\n          i32", "0x7632)),\n          i32"),
    Fault("upper nibbles not divided", "codes.cuh", "by1 + (by16 >> 4)", "by1 + (by16 >> 3)"),
    Fault("planes joined from the other word", "codes.cuh", "select_bits(0xCCCCCCCCu, hi, lo >> 2)", "select_bits(0xCCCCCCCCu, lo, hi >> 2)"),
    Fault("6-bit codes off their centre", "codes.cuh", "codes - 6 * sum", "codes - 7 * sum"),
    Fault("8-bit codes off their centre", "codes.cuh", "2 * codes - 15 * sum", "2 * codes - 16 * sum"),
    Fault("a step of the sum over lanes left out", "dot_panel.cuh", "for (u32 mask = bit; mask < kWarp", "for (u32 mask = 2 * bit; mask < kWarp"),
    Fault("fragments of inputs and rows exchanged", "batch.cuh", "16u * (i >> 1) + 8u * (i & 1) + g)", "16u * (i & 1) + 8u * (i >> 1) + g)"),
    Fault("fields of a table looked up in the wrong half", "batch.cuh", "field < 2 ? 0x6420", "field < 1 ? 0x6420"),
    Fault("scales of rows 8 to 15 taken for all", "batch.cuh", "const u32 from = 2u * r +", "const u32 from = 2u +"),
    Fault("a batch's parts added in another order", "batch.cuh", "((p[0] + p[1]) + (p[2] + p[3]))", "((p[0] + p[2]) + (p[1] + p[3]))"),
    Fault("a tile's last columns not clamped", "batch.cuh", "(column < u32(tile.count) ? column : u32(tile.count) - 1u)", "column", "address"),
    Fault("shared array overrun", "decode.cuh", "parts[split][panel][4u * lane + i] = sums[i];", "parts[split][panel + 3][4u * lane + i] = sums[i];", "address"),
    # activations
    Fault("nothing clamped from below", "activation.cuh", "up < -a.limit ? -a.limit : up", "up"),
    Fault("the gate clamped from below too", "activation.cuh", "const float g = gate > a.limit ? a.limit : gate;",
          "const float g = gate > a.limit ? a.limit : gate < -a.limit ? -a.limit : gate;"),
    Fault("no offset", "activation.cuh", "(u + a.up_offset)", "u"),
    Fault("no slope", "activation.cuh", "a.alpha * v", "v"),
    Fault("GELU's cubic term left out", "activation.cuh", "fmaf(0.07135481627f, v * v, 1.595769122f)", "1.595769122f"),
    Fault("relu not squared", "activation.cuh", "v < 0.0f ? 0.0f : v * v", "v < 0.0f ? 0.0f : v"),
    Fault("a NaN becomes zero", "activation.cuh", "used ? peak / 127.0f : finite ? 0.0f : __int_as_float(0x7fc00000)", "used ? peak / 127.0f : 0.0f"),
    Fault("codes rounded towards zero", "activation.cuh", "__float2int_rn(value * (127.0f / peak))", "i32(value * (127.0f / peak))"),
    Fault("bytes of a word in another order", "activation.cuh", "word, 1) << 8", "word, 2) << 8"),
    # the layer
    Fault("a weight of zero computed", "layer.cuh", "if (w != 0.0f) sum", "sum"),
    Fault("epsilon outside the root", "layer.cuh", "sqrtf(total / float(hidden) + epsilon)", "(sqrtf(total / float(hidden)) + epsilon + 1e-4f)"),
    Fault("equal keys by greater number", "route.cuh", "(key == other.key && at < other.at)", "(key == other.key && at > other.at)"),
    Fault("a group's second best forgotten", "route.cuh", "score += best_of_warp(mine).key;", "best_of_warp(mine);"),
    Fault("one group more than chosen", "route.cuh", "better >= rule.chosen_groups", "better > rule.chosen_groups"),
    Fault("the bias in the weights", "route.cuh", "const float z = has ? row.logits[expert] : 0.0f;\n  float weight",
          "const float z = has ? row.logits[expert] + (of.selection_bias ? of.selection_bias[expert] : 0.0f) : 0.0f;\n  float weight"),
    Fault("weights not scaled", "route.cuh", "weight *= rule.scale;", ""),
    Fault("ranks as chosen, not by weight", "route.cuh", "const u32 rank = broken ? lane :", "const u32 rank = true ? lane :"),
    Fault("the logits' bias forgotten", "route.cuh", "(of.logit_bias ? of.logit_bias[e] : 0.0f)", "0.0f"),
    Fault("the sum's floor forgotten", "route.cuh", "fmaxf(sum, rule.floor)", "sum"),
    Fault("those taken before are rivals", "route.cuh", "if (!is_far && !is_before(z, i32(e), {top, best})) total", "if (!is_far) total"),
    Fault("rivals in the best one's size alone", "route.cuh", "fmaxf(fabsf(z), top) > rule.near", "fabsf(top) > rule.near"),
    Fault("another token's experts from the table", "route.cuh", "of.token_ids[token]", "token"),
    Fault("the last round of reads left out", "reading.cuh", "for (; unit < units; unit += stride) {", "for (; false;) {"),
    Fault("a read behind the end", "reading.cuh", "units - unit > (kReadAhead - 1u) * stride", "units - unit > (kReadAhead - 2u) * stride", "address"),
    # the trunk
    Fault("no barrier before a product's parts are added", "linear.cuh",
          "= sum[t];\n  __syncthreads();", "= sum[t];", "race"),
    Fault("no barrier before the warps' softmaxes meet", "attention.cuh",
          "totals[warp] = total;\n  }\n  __syncthreads();", "totals[warp] = total;\n  }", "race"),
    Fault("no order between a head's norm and its rotation", "attention.cuh", ": factor;\n  __syncwarp();", ": factor;", "race"),
    Fault("no barrier behind a block's sum", "dense.cuh", "total += parts[w];\n  __syncthreads();", "total += parts[w];", "race"),
    Fault("no order before a head's rotation", "attention.cuh", "-s.clip : a;\n  }\n  __syncwarp();", "-s.clip : a;\n  }", "race"),
    Fault("no order behind a rotation", "attention.cuh", "b * cos[i] + a * sin[i];\n  }\n  __syncwarp();",
          "b * cos[i] + a * sin[i];\n  }", "race"),
    Fault("no order before a latent rotation", "latent.cuh", "v[i] = from[i];\n  __syncwarp();", "v[i] = from[i];", "race"),
    Fault("no barrier in the norm of a stream", "dense.cuh", "= v;\n  __syncthreads();", "= v;", "race"),
    Fault("rows behind the last token read", "linear.cuh", "(token < s.tokens ? token : s.tokens - 1u)", "(token + 1u)", "address"),
    Fault("nibbles in another order", "linear.cuh", ">> (4 * (i % 8))) & 15u", ">> (4 * ((i ^ 1) % 8))) & 15u"),
    Fault("8-bit codes of the trunk off their zero", "linear.cuh", "& 255u) - 128)", "& 255u) - 127)"),
    Fault("a scale of the next block", "linear.cuh", "scale[unit >> s.block_shift]", "scale[(unit + 1u) >> s.block_shift]"),
    Fault("an eighth of the inputs left out", "linear.cuh", "for (u32 part = 0; part < kLinearWarps", "for (u32 part = 1; part < kLinearWarps"),
    Fault("a sum that is not added", "linear.cuh", "s.adds ? *out + value : value", "value"),
    Fault("a token that does not see itself", "attention.cuh", "u32(past[0]) + token + 1u, first", "u32(past[0]) + token, first"),
    Fault("a window of one key more", "attention.cuh", "end - s.window : 0u", "end - s.window - 1u : 0u"),
    Fault("rotation the other way", "attention.cuh", "a * cos[i] - b * sin[i]", "a * cos[i] + b * sin[i]"),
    Fault("values rotated", "attention.cuh", "if (!is_value && half) rotate", "if (half) rotate"),
    Fault("keys of another group", "attention.cuh", "head / (s.heads / s.kv_heads)", "head % s.kv_heads"),
    Fault("sinks left out", "attention.cuh", "sinks ? expf(sinks[head] - highest) : 0.0f", "0.0f"),
    Fault("heads normed by the first one's weights", "attention.cuh", "gammas + u64(head) * s.dim", "gammas"),
    Fault("a stream that is not added to", "dense.cuh", "row[i] + more[u64(blockIdx.x) * width + i] : row[i]", "row[i] : row[i]"),
    Fault("pairs rotated as halves", "attention.cuh", "pairs ? 2 * i : i, second", "i, second"),
    Fault("heads normed before their rotation alone", "attention.cuh", "s.norm == kBehindRotation) norm", "s.norm == kBeforeRotation) norm"),
    Fault("values taken behind the keys where they are the keys", "attention.cuh", "is_value ? s.values + group : head", "head"),
    Fault("gates of another head", "attention.cuh", "s.gate + u64(head) * s.value_dim + i", "s.gate + i"),
    Fault("a head's product reads the first head's row", "linear.cuh", "* s.x_row + batch * s.x_step;", "* s.x_row;"),
    Fault("a head's scales are the first head's", "linear.cuh", "+ u64(place.batch) * s.scale_step", ""),
    Fault("a LayerNorm's mean kept", "dense.cuh", "(row[i] - mean) * factor", "row[i] * factor"),
    Fault("the residual stream scaled before it is added to", "dense.cuh", "s.by ? v * s.by[0] : v", "s.by ? fmaf(resid[first + i], s.by[0] - 1.0f, v) : v"),
    Fault("what is beside the experts left out", "dense.cuh", "s.own[i] + s.beside[first + i]", "s.own[i]"),
    Fault("a gate behind the norm where it comes first", "dense.cuh", "if (!s.norm_first) row[i] *=", "if (false) row[i] *="),
    Fault("a state read from the slot it is written to", "recurrence.cuh", "u64(passage->from) * s.slot + place", "u64(passage->slots[0]) * s.slot + place"),
    Fault("a state kept one token early", "recurrence.cuh", "t + 1u != u32(passage->tokens[stop])", "t + 2u != u32(passage->tokens[stop])"),
    Fault("a state that forgets nothing", "recurrence.cuh", "state[i] *= kept[key];", ""),
    Fault("queries not scaled", "recurrence.cuh", "1.0f / sqrtf(float(s.key_dim))", "1.0f"),
    Fault("Mamba's skip left out", "recurrence.cuh", "at.skip ? at.skip[head] * value : 0.0f", "0.0f"),
    Fault("no barrier before keys are used", "recurrence.cuh", "    __syncthreads();\n    const float value", "    const float value", "race"),
    Fault("no barrier before what is recalled", "recurrence.cuh", "recalled[warp][lane] = sum;\n      __syncthreads();", "recalled[warp][lane] = sum;", "race"),
    Fault("no barrier before what is read", "recurrence.cuh", "    __syncthreads();  // behind it", "    // behind it", "race"),
    Fault("taps in another order", "recurrence.cuh", "taps[u64(j) * tap_row + channel]", "taps[u64(s.kernel - 1u - j) * tap_row + channel]"),
    Fault("a row of the convolution's state left behind", "recurrence.cuh", "- i32(kept) + i32(row);", "- i32(kept) + i32(row) - 1;"),
    Fault("a latent key not rotated", "latent.cuh", "if (half) rotate_head", "if (half && !is_kept) rotate_head"),
    Fault("a latent state behind the wrong token", "latent.cuh", "(u64(past[0]) + token) * width", "u64(past[0]) * width"),
    Fault("4-bit floats of one sign", "codes.cuh", "return above - below;", "return above + below;"),
    Fault("coarse 4-bit floats off their zero", "codes.cuh", "codes - 48 * sum", "codes - 47 * sum"),
    Fault("a power of two taken for a factor", "codes.cuh", "__int_as_float(i32(scale << 23))", "float(scale)"),
]  # fmt: skip
