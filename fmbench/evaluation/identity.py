"""Identity of the evaluated model: hashes of its state and of the user's code that it runs."""

from __future__ import annotations

from dataclasses import replace

from fmbench.execution.foreign import foreign, isolated
from fmbench.execution.identity import code_identity
from fmbench.zoo.foreign import as_it_is
from fmbench.zoo.model import Model


def identified(model: Model) -> Model:
    """The model with its identity computed anew: a wrapped one may have been trained or changed since it was wrapped.

    ``code_sha256`` stays None where the code cannot be identified; nothing may be served from a cache for such a model.
    """
    model = as_it_is(model)
    if model.identity.get("code_sha256") is not None:
        return model
    with foreign(), isolated():
        return replace(model, identity={**model.identity, "code_sha256": code_identity(model.method)})


def can_be_told(model: Model | None) -> bool:
    """Whether the model can be recognised in another run; True for real samples."""
    return model is None or model.identity.get("code_sha256") is not None
