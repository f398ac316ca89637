"""What hobbit-export prints for people."""

from __future__ import annotations

from typing import Any

from edge_runtime.base.sizes import format_size


def summary(report: dict[str, Any]) -> str:
    """Say in lines for people what the command did, from what `--json` prints."""
    if report["dry_run"]:
        lines = [f"{kind:<14}{format_size(count):>12}" for kind, count in report["bytes"].items()]
        tiers = ", ".join(f"tier {t} {format_size(b)}" for t, b in report["expert_bytes_by_tier"].items())
        lines.append(f"one expert: {tiers}; {report['num_experts_in_all']} experts")
        lines += _basis(report) + _formats(report) + _left_out(report) + _ignored(report)
        lines += _trunk(report)
        lines += [f"{name}: {fit}" for name, fit in report["profiles"].items()]
        return "\n".join(lines)
    if "bundle_id" not in report:
        return "\n".join([*_source(report), f"{report['bundle']}: {_verified(report)[2:]}"])
    checked = _verified(report) if report["verified"] else ""
    resumed = f", {report['steps_resumed']} steps resumed" if report["steps_resumed"] else ""
    done = (
        f"{report['bundle']}: {format_size(report['bytes'])} in {report['num_parts']} parts, "
        f"{report['seconds']:.1f} s, peak memory {format_size(report['peak_rss_bytes'])}{_checking(report)}{resumed}"
        f"{checked}"
    )
    lines = [*_formats(report), *_left_out(report), *_ignored(report), *_source(report), *_trunk(report), done]
    return "\n".join(lines)


def _basis(report: dict[str, Any]) -> list[str]:
    """Say what a dry run went by, and what it could not know."""
    lines = []
    if "index" in report:
        index, assumed = report["index"], report["assumed"]
        lines.append(
            f"source: {format_size(index['bytes'])} in {index['files']} files, {index['tensors']} tensors, by the index"
        )
        matched = index["matched_bytes"]
        sure = "" if matched is None else f"; those exported then have {format_size(matched)}"
        lines.append(f"assumed: plain tensors are {assumed['dtype']}, {assumed['why']}{sure}")
    if report["not_checked"]:
        unread = " and ".join(report["not_checked"])
        lines.append(f"not read, so not checked: {unread}. --read-headers reads them, and so does an export")
    return lines


def _trunk(report: dict[str, Any]) -> list[str]:
    """Say which trunk "auto" came to and why, or may come to."""
    trunk = report["trunk"]
    if "int4_bytes" in trunk:
        more = f"{format_size(trunk['extra_bytes'])} more on the drive until then"
        return [f"trunk: int8, or int4 in {format_size(trunk['int4_bytes'])}: {trunk['why']}; {more}"]
    return [f"trunk: {trunk['precision']}: {trunk['why']}"] if trunk["why"] else []


def _checking(report: dict[str, Any]) -> str:
    """Say what the export took alone, where the check at its end took more."""
    alone = report["export_peak_rss_bytes"]
    return f" ({format_size(alone)} before the self-check)" if alone < report["peak_rss_bytes"] else ""


def _formats(report: dict[str, Any]) -> list[str]:
    """Lines that say in which formats the source has its quantised weights."""
    return [
        f"source: {count} weights in {name}, decoded exactly to float32" for name, count in report["formats"].items()
    ]


def _source(report: dict[str, Any]) -> list[str]:
    """A line that says that whole files of the source were compared, where they were."""
    count = report["source_files_verified"]
    if not count:
        return []
    rest = ", and so has all that the export received"
    if "bundle_id" not in report:
        rest = ". What the export received of them was not kept, and so is not compared"
    return [f"source: {count} weight files read whole have the digests that the hub states{rest}"]


def _left_out(report: dict[str, Any]) -> list[str]:
    """Lines that say which tensors of the checkpoint are not exported, and why."""
    found = [(one, f" and {one['tensors'] - 1} more" if one["tensors"] > 1 else "") for one in report["left_out"]]
    return [f"left out: {o['first']}{more}{_size(o['bytes'])}: {o['reason']}" for o, more in found]


def _size(count: int | None) -> str:
    return "" if count is None else f", {format_size(count)}"


def _ignored(report: dict[str, Any]) -> list[str]:
    """Lines that say which keys of config.json the user wanted ignored."""
    return [f"ignored because you said so: config.json: {key}" for key in report["ignored_keys"]]


def _verified(report: dict[str, Any]) -> str:
    check = report["verified"]["self_check"]
    logits = f"logits agree with the source ({check['correlation']:.4f})" if check else "self-check skipped"
    return f", {report['verified']['parts']} parts verified, {logits}"
