"""Entries on the Hub: ``hf:owner/name@revision`` names a repository that is laid out like a folder of the zoo.

First its recipe is fetched, which is small, then what the recipe names. Sizes are bounded by what the Hub lists before anything is downloaded;
nothing of a repository is executed unless its user says so and names the commit. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fmbench.records.names import check_name
from fmbench.records.recipe import read
from fmbench.registry import file_class
from fmbench.storage import repository
from fmbench.storage.cache import cache_root
from fmbench.storage.failures import writing
from fmbench.storage.files import sha256, write_atomic
from fmbench.storage.readers import MEBIBYTE, read_bytes
from fmbench.storage.repository import Address, Listed
from fmbench.zoo.catalogue import Entry
from fmbench.zoo.sources import require_announced, require_pinned, require_safe

RECIPE = "recipe.toml"
BESIDE = {"README.md": 1, "samples.png": 8, "classes.png": 8, "trajectory.png": 8}
"""Other files fetched with recipe and weights, and the most MiB of each; larger files are not downloaded."""
MOST_CODE, LARGEST_CODE = 100, 4 * MEBIBYTE
"""Largest number of code files in a repository, and bytes of each."""
ADAPTERS = (
    (("model_index.json",), "a diffusers pipeline"),
    (("config.json",), "a model of diffusers or transformers"),
    ((".safetensors",), "weights without their network"),
    ((".pkl",), "a pickle, as EDM publishes"),
    ((".ckpt", ".pt", ".pth", ".bin"), "a pickled checkpoint"),
)
"""Descriptions of repositories that are no entry, by the endings of their file names."""


@dataclass(frozen=True)
class HubEntry:
    """An entry on the Hub of which at least the recipe is on this machine.

    Attributes:
        asked: the address as the user gave it.
        address: the same, pinned to a commit.
        entry: its name, ``task/owner--name``, and its folder in the client's cache.
        listed: the files as the Hub listed them, with the hashes, which are known only then; None when the recipe was here already.
    """

    asked: Address
    address: Address
    entry: Entry
    listed: Mapping[str, Listed] | None = None

    @property
    def code(self) -> tuple[str, str] | None:
        """The file of its repository and the class in it that the recipe names as method; None where the method is one of fmbench's."""
        return file_class(self.entry.recipe.method["name"])

    def fetch(self) -> Entry:
        """The entry with all of its files downloaded and checked; the network is not used when they are there.

        Raises ValueError in one line for weights that are not what the recipe pins (a wrong download is deleted), for weights that are no
        safetensors, and what :func:`fmbench.storage.repository.fetch` raises.
        """
        pins = [pinned for pinned in self.entry.recipe.pins if pinned.source is None]
        if not pins:
            return self.entry
        if not repository.is_here(self.address, [pinned.file for pinned in pins]):
            files = self.listed or repository.listing(self.address)
            for pinned in pins:
                require_announced(files.get(pinned.file), pinned, self.address)
            names = (RECIPE, *(pinned.file for pinned in pins), *_beside(files))
            repository.fetch(self.address, {name: files[name].bytes for name in names})
        repository.fetch(self.address, {pinned.file: pinned.bytes for pinned in pins})
        for pinned in pins:
            require_pinned(self.entry.folder / pinned.file, pinned, self.address)
        return self.entry

    def trusted_code(self) -> str:
        """``path/to/file.py:Class`` of the repository's own code, copied out of the client's cache, whose files are links.

        Only for a user who has said that this commit may run. Raises ValueError in one line when the address is no commit, and for files that
        are too many, too large, or could leave their folder.
        """
        assert self.code is not None
        if not self.asked.pinned:
            raise ValueError(
                f"{self.asked} runs code: name the commit that you have read, {self.address}, together with --trust-remote-code"
            )
        path, kind = self.code
        target = cache_root() / "code" / self.address.repo.replace("/", "--") / str(self.address.revision)
        for name in self._code_files(path):
            data = read_bytes(self.entry.folder / name, LARGEST_CODE, "file of code")
            copy = target / name
            if not copy.is_file() or copy.read_bytes() != data:
                with writing(target, str(self.address)):
                    write_atomic(copy, data)
        return f"{target / path}:{kind}"

    def _code_files(self, path: str) -> list[str]:
        """The Python files of the repository, on this machine and checked; ``path`` is the one that the recipe names."""
        files = {n: f.bytes for n, f in repository.listing(self.address).items() if n.endswith(".py")}
        if path not in files:
            raise FileNotFoundError(f"{self.address} has no {path}, which its recipe names as the method")
        for name, size in files.items():
            for part in name.split("/"):
                check_name(part, f"a file of code in {self.address}")
            if size > LARGEST_CODE or len(files) > MOST_CODE:
                raise ValueError(
                    f"{self.address}: {len(files)} files of code, {name:.80} of {size:,} bytes; allowed are {MOST_CODE} of {LARGEST_CODE:,}"
                )
        repository.fetch(self.address, files)
        return sorted(files)

    def facts(self) -> dict[str, str]:
        """The origin of the model as recorded in a result."""
        said = {"hub": str(self.address)}
        return {**said, "remote_code": str(self.address.revision)} if self.code else said

    def pin(self) -> dict[str, str]:
        """The pinned address, and hashes of what it holds: of the recipe, and of the weights that the recipe pins."""
        told = {"pin": str(self.address), "recipe": sha256((self.entry.folder / RECIPE).read_bytes())}
        pinned = self.entry.recipe.weights
        return told if pinned is None else {**told, "weights": pinned.sha256}


def find(text: str) -> HubEntry:
    """The entry that ``hf:owner/name@revision`` names, its recipe fetched and read, its weights not.

    Raises ValueError in one line for a repository that is no entry, which says what it may be, for a recipe that is none, of a newer version, or
    too large, and for weights that are no safetensors; FileNotFoundError, PermissionError or ConnectionError for what cannot be fetched.
    """
    asked = repository.parse_address(text)
    address = Address(asked.repo, repository.commit_of(asked))
    size, files = 0, None
    if not repository.is_here(address, [RECIPE]):
        files = repository.listing(address)
        _require_entry(address, files)
        size = files[RECIPE].bytes
    folder = repository.fetch(address, {RECIPE: size})
    try:
        recipe = read(folder / RECIPE)
    except ValueError as error:
        raise ValueError(str(error).replace(str(folder / RECIPE), f"{address}: {RECIPE}")) from None
    for pinned in recipe.pins:
        require_safe(pinned.file, str(address))
    name = check_name(address.repo.replace("/", "--"), f"the entry of {address}")
    return HubEntry(asked, address, Entry(f"{recipe.task}/{name}", folder, recipe), files)


def _require_entry(address: Address, files: Mapping[str, Listed]) -> None:
    """Raise ValueError for a repository without a recipe, saying what it may be, and for one whose recipe is too large to be one."""
    if RECIPE not in files:
        kind = next((text for ends, text in ADAPTERS if any(name.endswith(ends) for name in files)), None)
        advice = "it holds no model that fmbench knows"
        if kind is not None:
            advice = (
                f"it looks like {kind}: `fmbench adopt {address} --task TASK` makes an entry of a network of diffusers; "
                "any other is loaded with the library that made it and handed to fmbench.wrap"
            )
        pickled = next(
            (name for name in sorted(files) if name.endswith((".pkl", ".ckpt", ".pt", ".pth", ".bin"))), None
        )
        if pickled and not any(name.endswith(".safetensors") for name in files):
            advice += f"; {pickled:.80} can hold a program: if you trust it, `fmbench convert {pickled:.80} --i-trust-this-file`"
        raise ValueError(f"{address} is no entry of fmbench, for it has no {RECIPE}; {advice}")
    if files[RECIPE].bytes > MEBIBYTE:
        raise ValueError(
            f"{address}: {RECIPE} has {files[RECIPE].bytes:,} bytes, and a recipe at most {MEBIBYTE:,}; nothing was downloaded"
        )


def _beside(files: Mapping[str, Listed]) -> list[str]:
    """Names of the files that are fetched with an entry besides recipe and weights."""
    return [name for name, most in BESIDE.items() if name in files and files[name].bytes <= most * MEBIBYTE]
