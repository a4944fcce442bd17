"""`scaffold verify`: every proof of one card."""

from __future__ import annotations

from pathlib import Path

import torch

from kinfold.assets import AssetCard
from kinfold.errors import CertificateError
from kinfold.loader import PreparedModel, load_model
from kinfold.scaffold.prove.parity import check_parity
from kinfold.scaffold.prove.proof import Check, Proof
from kinfold.scaffold.prove.reference import Reference, read_reference, run_transformers
from kinfold.scaffold.prove.roundtrip import check_round_trip


def verify(
    card: AssetCard,
    *,
    against_transformers: bool = False,
    reference_file: Path | None = None,
    dtype: str = "float64",
    tolerance: float = 1e-4,
) -> Proof:
    """Prove what can be proved of the model that a card names.

    Always: the certificate, the round trip, and that every value is finite. With a reference: parity.

    Args:
        card: The card.
        against_transformers: Run transformers on the same checkpoint.
        reference_file: A recorded reference (`token_ids`, `logits`).
        dtype: What both sides compute in, for parity.
        tolerance: How far logits may be apart, relative to the largest.

    Raises:
        CardError, CheckpointError: There is nothing to verify.
        ProofError: A reference cannot be had.
    """
    loader = load_model.get(card.model_family)
    try:
        prepared = loader.prepare(card)
    except CertificateError as error:
        return Proof(card.name, card.model_family, (Check("certificate", False, error.summary, error.faults),))
    checks = [_certificate(prepared), *check_round_trip(prepared, loader(card))]
    references: list[Reference] = []
    if reference_file is not None:
        references.append(read_reference(reference_file))
    if against_transformers:
        references.append(run_transformers(prepared.checkpoint.path, dtype=dtype))
    if references:
        model = loader(card, dtype=getattr(torch, dtype))
        checks += [check_parity(model, reference, tolerance=tolerance) for reference in references]
    return Proof(card.name, card.model_family, tuple(checks))


def _certificate(prepared: PreparedModel) -> Check:
    """The certificate, which `prepare` has found to hold."""
    conversion = prepared.conversion
    return Check("certificate", conversion.certificate.holds, f"key map {conversion.layout}: {conversion.certificate}")
