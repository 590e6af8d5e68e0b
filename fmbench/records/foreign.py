"""The table ``[foreign]`` of a recipe: a checkpoint that another library trained and published, where it lies and how it is read.

    [foreign]
    library = "diffusers"          # or torchcfm
    network = "UNet2DModel"        # its class there, built from [foreign.config]
    repo = "owner/name"
    revision = "40 digits of a commit"
    file = "unet/diffusion_pytorch_model.safetensors"
    sha256, bytes, parameters      # of that file
    predicts = "noise"             # and the other words of fmbench.methods.published
    schedule = "ddpm"
    time = "index"

It says in one table what ``[method]`` (published), ``[net]`` and ``[weights]`` say of every entry, and is read as these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fmbench.records.tables import shown

METHOD = "published"
LIBRARIES = ("diffusers", "torchcfm")
NET = ("network", "config")
PIN = ("file", "sha256", "bytes", "parameters")
ORIGIN = ("library", "repo", "revision")


def expand(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A recipe's content with ``[foreign]`` in the place of which stand ``[method]``, ``[net]`` and ``[weights]``.

    Raises ValueError in one line for a table that is none, lacks a key, names another library, or stands beside one of these three.
    """
    content = dict(content)
    given = content.pop("foreign")
    place = f"{where} [foreign]"
    if not isinstance(given, Mapping):
        raise ValueError(f"{place}: expected a table, got {shown(given)}")
    beside = [name for name in ("method", "net", "weights") if content.get(name)]
    if beside:
        raise ValueError(f"{place}: it stands for [{beside[0]}]; leave one of them out")
    missing = [key for key in (*ORIGIN, "network", *PIN) if key not in given]
    if missing:
        raise ValueError(f"{place}: missing {', '.join(missing)}; `fmbench adopt` writes all of them")
    if given["library"] not in LIBRARIES:
        raise ValueError(f"{place}: library must be one of {', '.join(LIBRARIES)}, got {shown(given['library'])}")
    words = {key: value for key, value in given.items() if key not in (*ORIGIN, *NET, *PIN)}
    net = {"name": given["library"], **{key: given[key] for key in NET if key in given}}
    source = f"hf:{given['repo']}@{given['revision']}"
    weights = {**{key: given[key] for key in PIN}, "source": source}
    return {"division": "open", **content, "method": {"name": METHOD, **words}, "net": net, "weights": weights}


def collapse(content: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`expand`; content of any other recipe as it is."""
    method, net, weights = (content.get(name) or {} for name in ("method", "net", "weights"))
    source = weights.get("source") or ""
    if method.get("name") != METHOD or net.get("name") not in LIBRARIES or not source:
        return dict(content)
    repo, _, revision = source.removeprefix("hf:").partition("@")
    table = {"library": net["name"], "network": net.get("network"), "repo": repo, "revision": revision}
    table |= {key: weights[key] for key in PIN}
    table |= {key: value for key, value in method.items() if key != "name"}
    table["config"] = net.get("config", {})
    left = {key: value for key, value in content.items() if key not in ("method", "net", "weights", "train")}
    return {**left, "foreign": table}
