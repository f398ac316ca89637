"""Geometry of one expert record: where tiers, metadata, planes and biases lie. docs/format.md section 1."""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.base.sizes import align_up
from edge_runtime.base.spec import ModelSpec

PAGE = 4096
GROUP = 32
PANEL = 16
RECORD_HEADER_BYTES = 64
ROW_BYTES = 12
"""Row scale and minimum (float32 each) and the four entries of the two-bit table."""
RECORD_MAGIC = b"HBR1"
TIERS = (2, 4, 6, 8)
BF16 = 16
"""The tier number of the bfloat16 reference: bits a weight, as for the others."""


@dataclass(frozen=True)
class RecordLayout:
    """Byte layout of the progressive records of one model.

    Args:
        hidden: D, a multiple of 32.
        intermediate: I, a multiple of 32.
        num_segments: 1 to 4; the deepest tier stored is 2 * num_segments bits.
        gated: there is a gate matrix.
        bias: the matrices have biases.
    """

    hidden: int
    intermediate: int
    num_segments: int = 4
    gated: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        for name in ("hidden", "intermediate"):
            value = getattr(self, name)
            if value < GROUP or value % GROUP:
                raise ValueError(f"record.{name}: expected a multiple of {GROUP}, got {value}")
        if not 1 <= self.num_segments <= 4:
            raise ValueError(f"record.num_segments: expected 1 to 4, got {self.num_segments}")

    @property
    def _wide(self) -> int:
        """Rows of the matrices that read x."""
        return (2 if self.gated else 1) * self.intermediate

    @property
    def num_weights(self) -> int:
        """Weights of one expert: gate (where there is one), up and down together."""
        return self.hidden * (self._wide + self.intermediate)

    @property
    def bias_bytes(self) -> int:
        """Bytes of the float32 biases, at the end of segment 0 and of the bfloat16 record."""
        return 4 * (self._wide + self.hidden) if self.bias else 0

    @property
    def plane_bytes(self) -> int:
        """Bytes of one 2-bit plane before padding."""
        return self.num_weights // 4

    @property
    def metadata_bytes(self) -> int:
        """Bytes of scales, minima and two-bit tables, stored once for all tiers."""
        up_panels, down_panels = self._wide // PANEL, self.hidden // PANEL
        rows = (up_panels + down_panels) * PANEL * ROW_BYTES
        groups = up_panels * (self.hidden // GROUP) + down_panels * (self.intermediate // GROUP)
        return rows + groups * 2 * PANEL

    @property
    def plane0_offset(self) -> int:
        """Offset of plane 0 in the base segment."""
        return RECORD_HEADER_BYTES + self.metadata_bytes

    @property
    def segment_bytes(self) -> tuple[int, ...]:
        """Padded bytes of each segment stored."""
        base = align_up(self.plane0_offset + self.plane_bytes + self.bias_bytes, PAGE)
        return (base,) + (align_up(self.plane_bytes, PAGE),) * (self.num_segments - 1)

    @property
    def record_bytes(self) -> int:
        """Bytes of a whole record."""
        return sum(self.segment_bytes)

    @property
    def tiers(self) -> tuple[int, ...]:
        """Every tier a record of this depth can serve."""
        return TIERS[: self.num_segments]

    @property
    def bf16_bytes(self) -> int:
        """Padded bytes of the bfloat16 record."""
        return align_up(2 * self.num_weights + self.bias_bytes, PAGE)

    def tier_bytes(self, tier: int) -> int:
        """Bytes to read and keep for one expert at `tier` (2, 4, 6, 8 or 16)."""
        if tier == BF16:
            return self.bf16_bytes
        if tier not in self.tiers:
            raise ValueError(f"tier: expected one of {self.tiers} or {BF16}, got {tier}")
        return sum(self.segment_bytes[: tier // 2])

    def segment_offsets(self, tier: int) -> tuple[int, ...]:
        """Offsets of the segments `tier` uses, from the record's start."""
        if tier == BF16:
            return (0,)
        sizes = self.segment_bytes[: tier // 2]
        return tuple(sum(sizes[:i]) for i in range(len(sizes)))


def record_layout(spec: ModelSpec, num_segments: int) -> RecordLayout:
    """Return the geometry of a model's records with so many segments."""
    experts = spec.experts
    return RecordLayout(spec.hidden, experts.intermediate, num_segments, experts.gated, experts.bias)
