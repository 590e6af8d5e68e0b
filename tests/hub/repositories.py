"""Model repositories in memory: commits, branches, pull requests, files in LFS; the answers of a Hub without any HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

LFS = (".safetensors", ".bin", ".pt", ".ckpt", ".pkl")
TOKEN = "hf_loopback"
"""The only token that may write and read what is private."""


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def blob(data: bytes) -> str:
    """The name that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Answer:
    """Status, body and headers of an answer."""

    status: int
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)


def said(content: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})


def refused(status: int, code: str, message: str = "") -> Answer:
    body = json.dumps({"error": message or code}).encode()
    return Answer(status, body, {"X-Error-Code": code, "X-Error-Message": message or code})


@dataclass
class Repo:
    """A repository: every commit holds all of its files."""

    name: str
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    pulls: list[dict[str, Any]] = field(default_factory=list)
    log: list[tuple[str, str]] = field(default_factory=list)
    listed: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the listing says about a file instead of the truth."""

    def commit(self, files: dict[str, bytes], message: str, ref: str = "main") -> str:
        """Add a commit with exactly these files and let a reference name it."""
        content = sorted((path, digest(data)) for path, data in files.items())
        parent = self.refs.get(ref) or self.refs.get("main", "")
        sha = hashlib.sha1(json.dumps([self.name, parent, message, content, len(self.log)]).encode()).hexdigest()
        self.commits[sha], self.refs[ref] = dict(files), sha
        self.log.append((sha, message))
        return sha

    def find(self, revision: str) -> str | None:
        return self.refs.get(revision) or (revision if revision in self.commits else None)

    def row(self, path: str, data: bytes) -> dict[str, Any]:
        """A file in the listing."""
        row: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": blob(data)}
        if path.endswith(LFS):
            row["lfs"] = {"oid": digest(data), "size": len(data), "pointerSize": 134}
        return {**row, **self.listed.get(path, {})}


class Repositories:
    """All repositories of a Hub and what it answers: ``answer(method, path, query, headers, body)``."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.stored: dict[str, bytes] = {}
        self.url = ""

    def add(self, name: str, files: dict[str, bytes], **facts: Any) -> Repo:
        """A repository with one commit."""
        repo = self.repos[name] = Repo(name, **facts)
        repo.commit(files, "initial commit")
        return repo

    def answer(self, method: str, path: str, query: dict[str, str], headers: Any, body: bytes) -> Answer:
        allowed = headers.get("Authorization") == f"Bearer {TOKEN}"
        for verb, pattern, act in self.routes():
            match = re.fullmatch(pattern, path)
            if match and method in verb.split():
                return self.checked(act, [unquote(part) for part in match.groups("")], query, body, allowed, method)
        return refused(404, "NotFound", f"no such endpoint: {method} {path}")

    def routes(self) -> list[tuple[str, str, Callable[..., Answer]]]:
        name = r"([\w.-]+/[\w.-]+)"
        return [
            ("POST", r"/api/repos/create", self.create),
            ("POST", r"/api/validate-yaml", self.validate),
            ("GET", rf"/api/models/{name}", self.info),
            ("GET", rf"/api/models/{name}/revision/(.+)", self.info),
            ("GET", rf"/api/models/{name}/tree/([^/]+)/?", self.tree),
            ("GET", rf"/api/models/{name}/discussions", self.discussions),
            ("POST", rf"/api/models/{name}/preupload/([^/]+)", self.preupload),
            ("POST", rf"/api/models/{name}/commit/([^/]+)", self.receive),
            ("POST", rf"/{name}\.git/info/lfs/objects/batch", self.batch),
            ("PUT", r"/upload/([0-9a-f]{64})", self.upload),
            ("POST", r"/verify/([0-9a-f]{64})", self.verify),
            ("GET HEAD", rf"/{name}/resolve/([^/]+)/(.+)", self.resolve),
        ]

    def checked(
        self, act: Callable[..., Answer], parts: list[str], query: dict[str, str], body: bytes, allowed: bool, verb: str
    ) -> Answer:
        """The answer after what a Hub checks of everyone: the repository is there, and the token may do this."""
        repo = self.repos.get(parts[0]) if parts and "/" in parts[0] else None
        if parts and "/" in parts[0]:
            if repo is None:
                return refused(404 if allowed else 401, "RepoNotFound", "Repository not found")
            if repo.private and not allowed:
                return refused(401, "RepoNotFound", "Invalid username or password.")
            if repo.gated and not allowed and act == self.resolve:
                return refused(401, "GatedRepo", f"Access to model {repo.name} is restricted.")
            parts = parts[1:]
        if verb in ("POST", "PUT") and act not in (self.upload, self.verify) and not allowed:
            return refused(401, "", "Invalid username or password.")
        return act(repo, parts, query, body) if repo else act(parts, query, body)

    def create(self, parts: list[str], query: dict[str, str], body: bytes) -> Answer:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.url}/{name}"}
        if name in self.repos:
            return said({**url, "error": "You already created this model repo"}, 409)
        self.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=asked.get("visibility") == "private")
        return said(url)

    def validate(self, parts: list[str], query: dict[str, str], body: bytes) -> Answer:
        import yaml

        text = json.loads(body)["content"]
        try:
            table = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else None
        except yaml.YAMLError as error:
            return said({"errors": [{"message": str(error)}], "warnings": []}, 400)
        warnings = [] if isinstance(table, dict) else [{"message": "empty or missing yaml metadata in repo card"}]
        return said({"errors": [], "warnings": warnings})

    def info(self, repo: Repo, parts: list[str], query: dict[str, str], body: bytes) -> Answer:
        sha = repo.find(parts[0] if parts else "main")
        if sha is None:
            return refused(404, "RevisionNotFound", f"Invalid rev id: {parts[0]}")
        names = [{"rfilename": path} for path in repo.commits[sha]]
        return said({"id": repo.name, "sha": sha, "private": repo.private, "gated": repo.gated, "siblings": names})

    def tree(self, repo: Repo, parts: list[str], query: dict[str, str], body: bytes) -> Answer:
        sha = repo.find(parts[0])
        if sha is None:
            return refused(404, "RevisionNotFound", f"Invalid rev id: {parts[0]}")
        return said([repo.row(path, data) for path, data in repo.commits[sha].items()])

    def discussions(self, repo: Repo, parts: list[str], query: dict[str, str], body: bytes) -> Answer:
        return said({"count": len(repo.pulls), "start": 0, "discussions": repo.pulls})

    def preupload(self, repo: Repo, parts: list[str], query: dict[str, str], body: bytes) -> Answer:
        sha = repo.find(parts[0])
        if sha is None:
            return refused(404, "RevisionNotFound")
        there, rows = repo.commits[sha], []
        for asked in json.loads(body)["files"]:
            mode, data = "lfs" if asked["path"].endswith(LFS) else "regular", there.get(asked["path"])
            oid = None if data is None else digest(data) if mode == "lfs" else blob(data)
            rows.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return said({"files": rows})

    def batch(self, repo: Repo, parts: list[str], query: dict[str, str], body: bytes) -> Answer:
        objects = []
        for asked in json.loads(body)["objects"]:
            one = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.stored:
                ways = {"upload": "upload", "verify": "verify"}
                one["actions"] = {key: {"href": f"{self.url}/{way}/{asked['oid']}"} for key, way in ways.items()}
            objects.append(one)
        return said({"transfer": "basic", "objects": objects})

    def upload(self, parts: list[str], query: dict[str, str], body: bytes) -> Answer:
        if digest(body) != parts[0]:
            return refused(400, "BadDigest", "the content is not what was announced")
        self.stored[parts[0]] = body
        return Answer(200, b"")

    def verify(self, parts: list[str], query: dict[str, str], body: bytes) -> Answer:
        return said({}) if parts[0] in self.stored else refused(404, "ObjectNotFound")

    def receive(self, repo: Repo, parts: list[str], query: dict[str, str], body: bytes) -> Answer:
        """One commit, all of it or nothing."""
        lines = [json.loads(line) for line in body.splitlines()]
        header, ref = lines[0]["value"], parts[0]
        parent = header.get("parentCommit") or repo.refs[ref]
        proposed = "create_pr" in query
        if not proposed and parent != repo.refs.get(ref):
            return refused(412, "", "A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[parent])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.stored:
                    return refused(400, "", f"LFS object {value['oid']} was never uploaded")
                files[value["path"]] = self.stored[value["oid"]]
            else:
                files.pop(value["path"], None)
        number = len(repo.pulls) + 1
        sha = repo.commit(files, header["summary"], f"refs/pr/{number}" if proposed else ref)
        told = {"commitUrl": f"{self.url}/{repo.name}/commit/{sha}", "commitOid": sha}
        if proposed:
            repo.pulls.append(_pull(repo.name, number, header["summary"]))
            told["pullRequestUrl"] = f"{self.url}/{repo.name}/discussions/{number}"
        return said(told)

    def resolve(self, repo: Repo, parts: list[str], query: dict[str, str], body: bytes) -> Answer:
        sha = repo.find(parts[0])
        if sha is None:
            return refused(404, "RevisionNotFound", f"Invalid rev id: {parts[0]}")
        data = repo.commits[sha].get(parts[1])
        if data is None:
            answer = refused(404, "EntryNotFound")
            return Answer(404, answer.body, {**answer.headers, "X-Repo-Commit": sha})
        etag = digest(data) if parts[1].endswith(LFS) else blob(data)
        kind = "application/octet-stream"
        return Answer(
            200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes", "Content-Type": kind}
        )


def _pull(repo: str, number: int, title: str) -> dict[str, Any]:
    return {
        "num": number,
        "title": title,
        "status": "open",
        "author": {"name": "someone"},
        "repo": {"name": repo, "type": "model"},
        "isPullRequest": True,
        "createdAt": "2026-01-01T00:00:00.000Z",
    }
