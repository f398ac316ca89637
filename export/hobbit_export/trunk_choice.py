"""`--trunk auto`: whether there is a choice at all, what it may cost, and what is said of it.

Int4 is taken where a text shows that it is close enough to int8. `choosing` does the steps that find out.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, NamedTuple

from edge_runtime.bundle.trunk_choice import TrunkLoss
from hobbit_export.expected_parts import trunk_parts
from hobbit_export.options import AUTO_TRUNK, ExportOptions
from hobbit_export.source import SourceModel
from hobbit_export.statistics.source_pass import drive_bytes
from hobbit_export.statistics.text import HELD_OUT_TOKENS, MOST_HELD_OUT, CalibrationText, HeldOut

KLD_BOUND = 0.003
"""Nats a token that an int4 trunk may be from the int8 one: the goal that error feedback was made for (ADR 152)."""


class ResolvedTrunk(NamedTuple):
    """Options of an export once its source is known.

    Attributes:
        options: whose trunk is "auto" only if a text can tell.
        text: of `--calibrate`, where one is given.
        asked: the trunk that was asked for.
        why: a trunk asked for as "auto" is int8 already, or "".
        is_resolved: False: whether a text can tell is not known, since the model's tokenizer has not been read.
    """

    options: ExportOptions
    text: CalibrationText | None
    asked: str
    why: str = ""
    is_resolved: bool = True

    @property
    def held_out(self) -> HeldOut | None:
        """What is held out of the text, where the trunk is to be chosen by it."""
        return self.text.held_out if self.text and self.options.trunk == AUTO_TRUNK else None


def resolve(source: SourceModel, options: ExportOptions) -> ResolvedTrunk:
    """Say of a trunk that is "auto" whether there is a choice: if not, the options returned have int8."""
    text = None if options.calibrate is None else CalibrationText(source, options.calibrate)
    if options.trunk != AUTO_TRUNK:
        return ResolvedTrunk(options, text, options.trunk)
    if text is None:
        why = "int4 is taken only where its loss is measured: give --calibrate, or ask for --trunk int4"
    elif text.held_out is None:
        why = (
            f"the text of --calibrate is too short to fit an int4 trunk and judge it on other {HELD_OUT_TOKENS} tokens"
        )
    elif not _has_room(options, beside_bytes(source, options, text)):
        why = (
            "a second trunk beside it, to be measured, would take more of the drive than two weight files of the "
            "model: keep the source (--keep-source DIR), or ask for --trunk int4"
        )
    else:
        return ResolvedTrunk(options, text, AUTO_TRUNK)
    return ResolvedTrunk(replace(options, trunk="int8"), text, AUTO_TRUNK, why)


def _has_room(options: ExportOptions, beside: int) -> bool:
    """Whether two trunks, what they are measured by and what is kept of the source stay in the bounds of the drive."""
    if options.files is None or options.files.room_bytes is None:
        return True
    return beside + options.files.kept_bytes(beside) <= options.files.room_bytes


def beside_bytes(source: SourceModel, options: ExportOptions, text: CalibrationText | None) -> int:
    """Bytes on the drive beyond the bundle at most, but for what is kept of the source.

    They are what a text put into the model while layers are fitted to it, and where two trunks are written the one that
    is not taken, and later logits.
    """
    if text is None:
        return 0
    statistics = drive_bytes(source.spec, len(text.fitted), fitted_trunk=options.feeds_back)
    held = text.held_out if options.trunk == AUTO_TRUNK else None
    if held is None:
        return statistics
    return trunk_bytes(source, "int8") + max(statistics, 4 * len(held.ids) * source.spec.vocab_size)


def unresolved(source: SourceModel, options: ExportOptions) -> ResolvedTrunk:
    """Return what `resolve` does where the model's tokenizer is not there to tell how long a text is."""
    if options.trunk != AUTO_TRUNK or options.calibrate is None:
        return resolve(source, options)
    return ResolvedTrunk(options, None, AUTO_TRUNK, is_resolved=False)


def _extra_bytes(source: SourceModel, tokens: int) -> int:
    """Bytes on the drive until it is known which trunk is kept: a second trunk, and logits of the held-out tokens."""
    return trunk_bytes(source, "int4") + 4 * tokens * source.spec.vocab_size


def trunk_bytes(source: SourceModel, precision: str) -> int:
    """Bytes of a trunk's parts at a precision, without the embedding table."""
    return sum(part.bytes for part in trunk_parts(source.spec, precision) if part.kind == "trunk")


def describe(choice: TrunkLoss) -> str:
    """Say in a line what was found."""
    return (
        f"int4 is {choice.kld_mean:.3g} nats from int8 on the text's {choice.held_out}, which it was not fitted to; "
        f"at most {choice.kld_bound:g} are allowed"
    )


def report(asked: str, precision: str, found: TrunkLoss | None, why: str) -> dict[str, Any]:
    """Say what became of the trunk, as plain data: `ExportReport.trunk`."""
    measured = asdict(found) if found else None
    return {"asked": asked, "precision": precision, "why": describe(found) if found else why, "measured": measured}


def outlook(source: SourceModel, resolved: ResolvedTrunk) -> dict[str, Any]:
    """Say what may become of the trunk, as plain data for `--dry-run`."""
    held, bound = resolved.held_out, f"it is within {KLD_BOUND:g} nats of int8 on"
    if held is None and resolved.is_resolved:
        return {"asked": resolved.asked, "precision": resolved.options.trunk, "why": resolved.why}
    if held is None:
        why = f"if {bound} a part of the text that it is not fitted to; if the text is long enough, which is not known"
        tokens, fitted = MOST_HELD_OUT, None
    else:
        why = f"if fitted to {held.fitted} tokens {bound} the text's {held.where}"
        tokens, fitted = len(held.ids), held.fitted
    return {
        "asked": resolved.asked, "precision": "int8", "int4_bytes": trunk_bytes(source, "int4"),
        "extra_bytes": _extra_bytes(source, tokens), "tokens": tokens, "fitted_tokens": fitted,
        "kld_bound": KLD_BOUND, "why": why,
    }  # fmt: skip
