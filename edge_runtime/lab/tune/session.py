"""One tuning from start to end: measure what is there, record a trace, probe, predict, search."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import ConfigError
from edge_runtime.config.device_profile import DeviceProfile
from edge_runtime.lab.bench.power_modes import PowerModes
from edge_runtime.lab.probes.base import Subject
from edge_runtime.lab.tune.accept import Terms
from edge_runtime.lab.tune.candidate import Candidate, axes
from edge_runtime.lab.tune.fingerprint import fingerprint, machine_facts
from edge_runtime.lab.tune.gate import Fitness, Sentinel, TemperatureGate, checksum_rate, hottest, limit_of
from edge_runtime.lab.tune.journal import Journal
from edge_runtime.lab.tune.laboratory import ProcessLaboratory, Reference
from edge_runtime.lab.tune.measurement import Failure, Measurement, Workload
from edge_runtime.lab.tune.mode_switch import ModeSwitch
from edge_runtime.lab.tune.processes import require
from edge_runtime.lab.tune.result import Tuning
from edge_runtime.lab.tune.search import SearchRules, search
from edge_runtime.lab.tune.settings import TuneSettings
from edge_runtime.lab.tune.surroundings import Surroundings, survey
from edge_runtime.lab.tune.trial import SearchOutcome
from edge_runtime.lab.tune.workload import make_workload
from edge_runtime.telemetry.power import parse_choice

Say = Callable[[str], None]
_REFERENCE_TOKENS = 128


@dataclass(frozen=True)
class Done:
    """A tuning that is over.

    Attributes:
        tuning: what it found.
        profile: what it began with.
        facts: measured rates, by the names a profile has for them.
        settings: of the tuning.
        journal: of the tuning.
    """

    tuning: Tuning
    profile: DeviceProfile
    facts: Mapping[str, float | None]
    settings: TuneSettings
    journal: Journal

    def forget(self) -> None:
        """Remove journal and trace, once what was found is on the drive."""
        self.journal.remove()
        self.settings.trace.unlink(missing_ok=True)


def tune(bundle: Path, options: Mapping[str, Any], settings: TuneSettings, say: Say) -> Done:
    """Tune a bundle on this machine. What was measured of an interrupted tuning is not measured again.

    Args:
        bundle: what is run.
        options: of the engine, which are left as they are.
        settings: how.
        say: told what goes on.

    Raises:
        ConfigError: options or journal do not fit.
        DeviceError: the bundle cannot be measured as it is.
    """
    subject = Subject(bundle, options, root=settings.root)
    planned = subject.planned
    policy = planned.active.text
    if not planned.active.policy.follows_router:
        raise ConfigError(
            f"--policy: tuning begins with lossless, got {policy!r}. Leave it out; with --max-kld X the tuning "
            "chooses one that costs at most X nats a token."
        )
    workload = make_workload(
        planned.tokenizer, planned.bundle.manifest.model.vocab_size, text=settings.text,
        prompt_tokens=settings.prompt_tokens, gen_tokens=settings.gen_tokens, requests=settings.requests,
        seed=settings.seed,
    )  # fmt: skip
    about = describe(subject, settings, workload)
    journal = Journal(settings.journal, {name: about[name] for name in ("fingerprint", "bundle_id", "key")})
    if journal.count:
        say(f"going on with {settings.journal}, which holds {journal.count} measurements")
    fitness = Fitness(TemperatureGate(lambda: hottest(settings.root), limit_of(settings.root)), Sentinel(checksum_rate))
    modes = _modes(settings, options)
    lab = ProcessLaboratory(bundle, options, workload, journal=journal, fitness=fitness, budget_s=settings.budget_s)
    lab.modes = modes
    say("measuring what it begins with")
    baseline = measured(lab.measure("baseline", Candidate(), 0, lossy=False))
    _record(lab, workload, settings.trace, say)
    say("probing drive, memory and computing")
    others = modes.others if modes else ()
    found = survey(subject, settings.trace, workload, baseline, settings.allowed, lab.job, others)
    lab.predictor = found.predictor
    with modes.changing() if modes else nullcontext():
        outcome = _search(lab, found, options, settings, workload, say)
    tuning = Tuning(about, outcome, baseline, found.probes, found.left_out, _conditions(lab))
    return Done(tuning, planned.config.profile, found.facts, settings, journal)


def _modes(settings: TuneSettings, options: Mapping[str, Any]) -> ModeSwitch | None:
    """Return what switches power modes, if they may be switched.

    Raises:
        DeviceError: this is no Jetson.
    """
    if not settings.change_power_mode:
        return None
    return ModeSwitch(PowerModes(parse_choice(str(options.get("power_meter") or "auto")).root))


def _search(
    lab: ProcessLaboratory,
    found: Surroundings,
    options: Mapping[str, Any],
    settings: TuneSettings,
    workload: Workload,
    say: Say,
) -> SearchOutcome:
    reference = settings.out.with_name(settings.out.name + ".logits.npy")
    try:
        if found.space.policies or found.space.tiers:
            say("computing the logits that candidates are compared with")
            tokens = [token for prompt in workload.prompts for token in prompt][:_REFERENCE_TOKENS]
            said = lab.job("reference", Candidate(), reference=str(reference), reference_tokens=tokens)
            require(said, "the reference for KL divergence")
            lab.reference = Reference(reference, tokens)
        rules = SearchRules(rounds=settings.rounds, finalists=settings.finalists, terms=Terms(max_kld=settings.max_kld))
        return search(axes(found.space, options), lab, rules, say)
    finally:
        reference.unlink(missing_ok=True)


def _record(lab: ProcessLaboratory, workload: Workload, path: Path, say: Say) -> None:
    """Record a trace of the workload's requests, unless an interrupted tuning left it."""
    if path.exists():
        return
    say("recording a trace")
    said = require(lab.job("measure", Candidate()), "what it begins with")
    # the last token of an answer is not run
    texts = [[*prompt, *answer[:-1]] for prompt, answer in zip(workload.prompts, said["answers"], strict=True)]
    require(lab.job("trace", Candidate(), texts=texts, trace=str(path)), "the trace")


def measured(found: Measurement | Failure) -> Measurement:
    """Return a measurement.

    Raises:
        DeviceError: there is none.
    """
    if isinstance(found, Failure):
        require(found, "what it begins with")
    assert isinstance(found, Measurement)
    return found


def describe(subject: Subject, settings: TuneSettings, workload: Workload) -> dict[str, Any]:
    """Return what a report says about machine, bundle and workload; measurements hang on `key`."""
    planned = subject.planned
    machine = machine_facts(subject.path, planned.computes_on, subject.root)
    stated = {name: str(value) for name, value in subject.options.items()}
    plain = [asdict(workload), stated, asdict(settings.allowed)]
    return {
        "measured_at": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ"),
        "version": version("hobbit-edge"),
        "bundle": subject.path.resolve().name,
        "bundle_id": planned.bundle.manifest.bundle_id,
        "machine": machine,
        "fingerprint": fingerprint(machine),
        "profile": planned.config.profile.name,
        "options": stated,
        "workload": asdict(workload) | {"text": None if settings.text is None else settings.text.name},
        "rounds": settings.rounds,
        "key": hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16],
    }


def _conditions(lab: ProcessLaboratory) -> dict[str, Any]:
    """Say what temperature and clock did meanwhile."""
    gate, rates = lab.gate, lab.sentinel.rates
    unsteady = sum(not lab.sentinel.is_steady(rate) for rate in rates)
    remarks = []
    if gate.gave_up:
        remarks.append(f"HOT: {gate.gave_up} measurements began at {gate.limit:g} C or above, after waiting")
    if unsteady:
        remarks.append(
            f"UNSTEADY: in {unsteady} of {len(rates)} measurements a fixed load ran at another speed than at "
            "first: the clock changed, or something else ran. Such rounds are measured again, unless that is the rule"
        )
    return {
        "gate_celsius": gate.limit,
        "has_sensor": gate.read() is not None,
        "waited_s": round(gate.waited_s, 1),
        "began_hot": gate.gave_up,
        "clock_samples": [round(rate, 4) for rate in rates],
        "unsteady": unsteady,
        "remarks": remarks,
    }
