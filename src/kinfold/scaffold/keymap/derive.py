"""Deriving a family's key map from a checkpoint: inferred, settled where it is open, certified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kinfold.checkpoint import Checkpoint
from kinfold.keymap import Certificate, KeyMap, certify
from kinfold.keymap.plan import Read
from kinfold.keymap.rules import Rule
from kinfold.scaffold.keymap.inference.groups import Group
from kinfold.scaffold.keymap.inference.infer import Inference, infer
from kinfold.scaffold.keymap.inference.words import Vocabulary, standard_vocabulary
from kinfold.scaffold.keymap.leftovers import explain_leftovers, explain_padding
from kinfold.scaffold.keymap.native import FamilySide, NativeSide
from kinfold.scaffold.keymap.numbered import merge_numbered
from kinfold.scaffold.keymap.pairing import Question, RotaryOrder
from kinfold.scaffold.keymap.prior import Prior
from kinfold.scaffold.keymap.rules import rule_of
from kinfold.scaffold.keymap.settling.conventions import rotary_convention
from kinfold.scaffold.keymap.settling.draft import Rotary, all_groups, draft_of
from kinfold.scaffold.keymap.settling.parity import Trial, settle_by_parity
from kinfold.scaffold.keymap.settling.values import Conversions, Values
from kinfold.scaffold.prove.reference import Reference
from kinfold.scaffold.reading.config_keys import GGUF_ROTARY_PAIRS


@dataclass(frozen=True, slots=True)
class DerivedRule:
    """A rule, what speaks for it, and how sure that is, between 0 and 1."""

    rule: Rule
    evidence: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Derived:
    """What was derived.

    Attributes:
        rules: The rules, in the order of the model's parameters; then those of tensors that are not needed.
        questions: What is open.
        unexplained: Foreign groups that no rule takes.
        unfilled: Native groups that no rule gives.
        rotary: How the rows of queries and keys lie in the checkpoint, and why.
        agrees: Whether the rules compute the logits of a reference; None if that was not tried.
        tried: What a reference said, for a person.
        certificate: Of the rules, for this checkpoint; it holds only if nothing is open.
    """

    rules: tuple[DerivedRule, ...]
    questions: tuple[Question, ...]
    unexplained: tuple[Group, ...]
    unfilled: tuple[Group, ...]
    rotary: Rotary | None
    agrees: bool | None
    tried: str
    certificate: Certificate

    @property
    def complete(self) -> bool:
        """Whether everything is explained, nothing open, and no reference disagrees."""
        return not self.questions and self.certificate.holds and self.agrees is not False

    @property
    def key_map(self) -> KeyMap:
        """The map of the rules."""
        return KeyMap(*(derived.rule for derived in self.rules))


def derive(
    checkpoint: Checkpoint,
    native: NativeSide,
    *,
    values: Read | None = None,
    prior: Prior | None = None,
    reference: Reference | None = None,
    tolerance: float = 1e-4,
    vocabulary: Vocabulary | None = None,
) -> Derived:
    """Derive the key map from a checkpoint to a model.

    Names and shapes come first. What they leave open is settled by values, by what the map has had, then by a
    reference; what none of them settles stays open.

    Args:
        checkpoint: The foreign side.
        native: The native side; of a family, if there is a reference.
        values: Gives native tensors by name, of the same weights, where these are known.
        prior: What the family's map has had, before the checkpoint changed.
        reference: Logits that were computed from the same weights.
        tolerance: How far logits may be apart, relative to the largest.
        vocabulary: What words mean.
    """
    vocabulary = vocabulary or standard_vocabulary()
    inference = infer(checkpoint.manifest, native.manifest, vocabulary=vocabulary)
    conversions = Conversions(checkpoint.manifest, checkpoint.tensor, native)
    rotary = rotary_order(checkpoint)
    if values is None:
        draft = draft_of(inference, native, vocabulary, rotary=rotary)
    else:
        known = Values(conversions, values)
        draft = known.settle(draft_of(inference, native, vocabulary, fits=known.fits))
        draft = draft if draft.rotary else replace(draft, rotary=rotary)
    drafts = [draft] if prior is None else [prior.settle(draft), draft]
    if reference is None or not isinstance(native, FamilySide):
        return _derived(Trial(drafts[0], None, ""), checkpoint, native, vocabulary)
    # What the map has had may be just what is wrong now, and names may mislead; then how modules nest.
    by_shapes = Inference((), *all_groups(inference), inference.lists)
    drafts += [draft_of(by_shapes, native, vocabulary, nested=nested) for nested in (True, False)]
    trials = (settle_by_parity(draft, conversions, native, reference, tolerance=tolerance) for draft in drafts)
    first = next(trials)
    best = first if first.agrees else next((trial for trial in trials if trial.agrees), first)
    return _derived(best, checkpoint, native, vocabulary)


def rotary_order(checkpoint: Checkpoint) -> Rotary | None:
    """How the rows of queries and keys lie in a checkpoint, by its format or its names; None if these do not say."""
    architecture = str(checkpoint.config.get("general.architecture"))
    if checkpoint.layout == "gguf":
        orders: Mapping[str, RotaryOrder] = GGUF_ROTARY_PAIRS
        return (orders[architecture], f"general.architecture = {architecture}") if architecture in orders else None
    return rotary_convention(checkpoint.manifest)


def _derived(trial: Trial, checkpoint: Checkpoint, native: NativeSide, vocabulary: Vocabulary) -> Derived:
    draft = trial.draft
    order = draft.rotary[0] if draft.rotary else "halves"
    place = {name: number for number, name in enumerate(native.manifest)}
    pairings = sorted(
        merge_numbered(draft.pairings), key=lambda pairing: min(place[group.first_name] for group in pairing.targets)
    )
    rules = [DerivedRule(rule_of(pairing, native, order), pairing.evidence, pairing.confidence) for pairing in pairings]
    unused, unfilled = list(draft.unused), list(draft.unfilled)
    if not draft.questions:
        for padded in explain_padding(unused, unfilled, native, checkpoint.tensor, vocabulary):
            rules.append(DerivedRule(padded.rule, padded.evidence, 1.0))
            unused.remove(padded.source)
            unfilled.remove(padded.target)
    used = [group for pairing in draft.pairings for group in pairing.sources]
    explained, unexplained = explain_leftovers(unused, used, checkpoint.tensor, vocabulary)
    rules += [DerivedRule(rule, evidence, 1.0) for rule, evidence in explained]
    key_map = KeyMap(*(derived.rule for derived in rules))
    certificate = certify(key_map.bind(native.config), checkpoint.manifest, native.manifest)
    turns = any(native.turns(group) for pairing in pairings for group in pairing.targets)
    return Derived(
        tuple(rules),
        draft.questions,
        tuple(unexplained),
        tuple(unfilled),
        draft.rotary if turns else None,
        trial.agrees,
        trial.outcome,
        certificate,
    )
