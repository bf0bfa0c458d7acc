"""A small Hub on the loopback for the real `huggingface_hub` client."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import transformers
from huggingface_hub import constants, hf_api
from huggingface_hub.utils import _http
from transformers import TrainerCallback

LARGE = 2_000  # bytes from which a file is sent by LFS; the real Hub decides by suffix and at 10 MB


class File(NamedTuple):
    content: bytes
    is_lfs: bool

    @property
    def oid(self) -> str:
        if self.is_lfs:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


class Repository:
    """Commits by sha, each a whole tree; branches, tags and pull requests point to them."""

    def __init__(self, name, private):
        self.name, self.private, self.titles = name, private, []
        self.commits, self.branches, self.tags, self.pulls = {}, {}, {}, {}
        self.commit("main", {}, "initial commit")

    def commit(self, branch, files, title):
        sha = hashlib.sha1(f"{self.name} {len(self.commits)}".encode()).hexdigest()
        self.commits[sha] = files
        (self.pulls if branch.startswith("refs/pr/") else self.branches)[branch] = sha
        self.titles.append(title)
        return sha

    def sha(self, revision):
        named = {**self.tags, **self.pulls, **self.branches}
        return named.get(revision) or (revision if revision in self.commits else None)

    def files(self, revision="main"):
        """The content of each file, by path."""
        return {path: file.content for path, file in self.commits[self.sha(revision)].items()}


class Refused(Exception):
    """An answer with an error: status, the client's error code, message."""


class HubServer:
    """The server, what it holds, what reached it, and the faults it is told to have.

    Attributes:
        users: owner and right ("write" or "read") of each token.
        repositories: by "owner/name".
        requests: (method, path, headers without Authorization, body) of every request.
    """

    def __init__(self):
        self.users = {"hf_loopbackwrite": ("someone", "write"), "hf_loopbackread": ("someone", "read")}
        self.repositories, self.objects, self.requests, self._faults = {}, {}, [], []
        self.lock = threading.Lock()
        self._server, self._port = None, 0
        self.start()

    def start(self):
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self._port}"

    def fail(self, request, how, times=1):
        """Answer the next requests that match `request` ("METHOD path", a regular expression) by a fault.

        `how` is a status, "cut" (the connection ends in the middle of the request's body), "lost" (the request is
        carried out, its answer is not sent) or "slow" (it is carried out after half a second).
        """
        self._faults.append([re.compile(request), how, times])

    def forgive(self):
        """Have no fault from now on."""
        self._faults = []

    def fault_of(self, request):
        for fault in self._faults:
            if fault[2] and fault[0].search(request):
                fault[2] -= 1
                return fault[1]
        return None

    def everything_received(self):
        """All that reached the server, the content of commits decoded, as one text of bytes."""
        parts = []
        for method, path, headers, body in self.requests:
            parts += [f"{method} {path} {headers}".encode(), body]
            if path.endswith("/preupload") or "/commit/" in path or "/preupload/" in path:
                parts += [base64.b64decode(text) for text in re.findall(rb'"(?:content|sample)": ?"([^"]*)"', body)]
        return b"\n".join(parts)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def log_message(self, *_):
        pass

    def _serve(self):
        fault = self.hub.fault_of(f"{self.command} {self.path}")
        if fault == "slow":
            time.sleep(0.5)
        body = self._body(cut=fault == "cut")
        if fault == "cut":
            return self.connection.close()
        headers = {k: v for k, v in self.headers.items() if k.lower() != "authorization"}
        with self.hub.lock:
            self.hub.requests.append((self.command, self.path, headers, body))
            try:
                if isinstance(fault, int):
                    raise Refused(fault, "", "planted fault")
                status, reply, extra = self._answer(body)
            except Refused as error:
                status, code, message = error.args
                reply, extra = (
                    {"error": message},
                    {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})},
                )
        if fault == "lost":
            return self.connection.close()
        data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(data), "Content-Type": "application/json", **extra}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _body(self, cut):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
                if cut:
                    break
            return b"".join(parts)
        length = int(self.headers.get("Content-Length") or 0)
        return self.rfile.read(length // 2 if cut else length)

    # ---- what a Hub knows

    def _user(self, right="read"):
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in self.hub.users:
            raise Refused(401, "", "Invalid credentials in Authorization header")
        user, granted = self.hub.users[token]
        if right == "write" and granted != "write":
            raise Refused(403, "", f"the token of {user} may not write")
        return user

    def _repository(self, name, right="read"):
        repository = self.hub.repositories.get(name)
        if repository is None:
            raise Refused(404, "RepoNotFound", "Repository not found")
        if repository.private or right == "write":
            if self._user(right) != name.split("/")[0]:
                raise Refused(403, "", "not yours")
        return repository

    def _answer(self, body):
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        for method, pattern, answer in _ROUTES:
            if self.command in method and (match := re.fullmatch(pattern, path)):
                return answer(self, *match.groups(), body=body, query=query)
        raise Refused(404, "", f"this Hub knows no {self.command} {path}")

    def whoami(self, body, query):
        return 200, {"name": self._user(), "type": "user", "orgs": []}, {}

    def validate_yaml(self, body, query):
        return 200, {"errors": [], "warnings": []}, {}

    def create(self, body, query):
        asked = json.loads(body)
        name = f"{asked.get('organization') or self._user('write')}/{asked['name']}"
        reply = {"url": f"{self.hub.endpoint}/{name}", "name": name}
        self._user("write")
        if name in self.hub.repositories:
            return 409, {**reply, "error": "You already created this model repo"}, {}
        self.hub.repositories[name] = Repository(name, asked.get("visibility") == "private" or asked.get("private"))
        return 200, reply, {}

    def preupload(self, name, revision, body, query):
        repository = self._repository(name, "write")
        held = repository.commits[self._sha(repository, revision)]
        return 200, {"files": [
            {
                "path": file["path"], "shouldIgnore": False,
                "uploadMode": "lfs" if file["size"] >= LARGE else "regular",
                "oid": held[file["path"]].oid if file["path"] in held else None,
            }
            for file in json.loads(body)["files"]
        ]}, {}  # fmt: skip

    def lfs_batch(self, name, body, query):
        self._repository(name, "write")
        objects = []
        for asked in json.loads(body)["objects"]:
            link = f"{self.hub.endpoint}/lfs/{asked['oid']}"
            actions = {"upload": {"href": link}, "verify": {"href": f"{link}/verify"}}
            objects.append(asked if asked["oid"] in self.hub.objects else {**asked, "actions": actions})
        return 200, {"transfer": "basic", "objects": objects}, {}

    def lfs_put(self, oid, body, query):
        if self.headers.get("Authorization"):
            raise Refused(400, "", "the storage takes no Authorization: the link is signed")
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refused(400, "", "the content is not what was announced")
        self.hub.objects[oid] = body
        return 200, b"", {}

    def lfs_verify(self, oid, body, query):
        held = self.hub.objects.get(oid)
        if held is None or len(held) != json.loads(body)["size"]:
            raise Refused(404, "", "not uploaded")
        return 200, {}, {}

    def commit(self, name, revision, body, query):
        repository = self._repository(name, "write")
        files, title = dict(repository.commits[self._sha(repository, revision)]), ""
        for line in map(json.loads, body.splitlines()):
            key, value = line["key"], line["value"]
            if key == "header":
                title = value["summary"]
            elif key == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), False)
            elif key == "lfsFile":
                files[value["path"]] = File(self.hub.objects[value["oid"]], True)
            elif key == "deletedFile":
                del files[value["path"]]
        number = len(repository.pulls) + 1
        to_pull = query.get("create_pr") == ["1"]
        sha = repository.commit(f"refs/pr/{number}" if to_pull else revision, files, title)
        reply = {"commitUrl": f"{self.hub.endpoint}/{name}/commit/{sha}", "commitOid": sha}
        return (
            200,
            reply | ({"pullRequestUrl": f"{self.hub.endpoint}/{name}/discussions/{number}"} if to_pull else {}),
            {},
        )

    def info(self, name, _, revision, body, query):
        repository = self._repository(name)
        sha = self._sha(repository, revision or "main")
        siblings = [{"rfilename": path} for path in repository.commits[sha]]
        return 200, {
            "id": name, "modelId": name, "sha": sha, "private": repository.private, "siblings": siblings, "tags": [],
        }, {}  # fmt: skip

    def refs(self, name, body, query):
        repository = self._repository(name)
        kinds = {"branches": repository.branches, "tags": repository.tags, "pullRequests": repository.pulls}
        prefixes = {"branches": "refs/heads/", "tags": "refs/tags/", "pullRequests": ""}
        return 200, {
            "converts": [],
            **{
                kind: [{"name": n, "ref": prefixes[kind] + n, "targetCommit": sha} for n, sha in held.items()]
                for kind, held in kinds.items()
            },
        }, {}  # fmt: skip

    def branch(self, name, branch, body, query):
        repository = self._repository(name, "write")
        if branch in repository.branches:
            raise Refused(409, "", "the branch exists")
        start = json.loads(body or b"{}").get("startingPoint") or "main"
        repository.branches[branch] = self._sha(repository, start)
        return 200, {}, {}

    def tag(self, name, revision, body, query):
        repository = self._repository(name, "write")
        repository.tags[json.loads(body)["tag"]] = self._sha(repository, revision)
        return 200, {}, {}

    def _entry(self, path, file):
        lfs = {"lfs": {"oid": file.oid, "size": len(file.content), "pointerSize": 130}} if file.is_lfs else {}
        return {"type": "file", "path": path, "size": len(file.content), "oid": file.oid, **lfs}

    def tree(self, name, revision, folder, body, query):
        repository = self._repository(name)
        held = repository.commits[self._sha(repository, revision)]
        inside = {path: file for path, file in held.items() if path.startswith(f"{folder}/" if folder else "")}
        if folder and not inside:
            raise Refused(404, "EntryNotFound", "no such folder")
        return 200, [self._entry(path, file) for path, file in inside.items()], {}

    def paths_info(self, name, revision, body, query):
        repository = self._repository(name)
        held = repository.commits[self._sha(repository, revision)]
        asked = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
        return 200, [self._entry(path, held[path]) for path in asked if path in held], {}

    def resolve(self, name, revision, path, body, query):
        repository = self._repository(name)
        sha = self._sha(repository, revision)
        file = repository.commits[sha].get(path)
        if file is None:
            error = {"X-Repo-Commit": sha, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return 404, {"error": "Entry not found"}, error
        linked = {"X-Linked-Size": len(file.content), "X-Linked-Etag": f'"{file.oid}"'} if file.is_lfs else {}
        return 200, file.content, {"ETag": f'"{file.oid}"', "X-Repo-Commit": sha, **linked}

    def _sha(self, repository, revision):
        sha = repository.sha(revision)
        if sha is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha


_NAME = r"([^/]+/[^/]+)"
_ROUTES = [
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/validate-yaml", _Handler.validate_yaml),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", f"/api/models/{_NAME}/preupload/(.+)", _Handler.preupload),
    ("POST", f"/{_NAME}.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", "/lfs/([0-9a-f]+)", _Handler.lfs_put),
    ("POST", "/lfs/([0-9a-f]+)/verify", _Handler.lfs_verify),
    ("POST", f"/api/models/{_NAME}/commit/(.+)", _Handler.commit),
    ("GET", f"/api/models/{_NAME}/refs", _Handler.refs),
    ("POST", f"/api/models/{_NAME}/branch/(.+)", _Handler.branch),
    ("POST", f"/api/models/{_NAME}/tag/(.+)", _Handler.tag),
    ("GET", f"/api/models/{_NAME}/tree/(refs/pr/[0-9]+|[^/]+)(?:/(.+))?", _Handler.tree),
    ("POST", f"/api/models/{_NAME}/paths-info/(.+)", _Handler.paths_info),
    ("GET", f"/api/models/{_NAME}(/revision/(.+))?", _Handler.info),
    ("GET HEAD", f"/{_NAME}/resolve/(refs/pr/[0-9]+|[^/]+)/(.+)", _Handler.resolve),
]


class AwaitPush(TrainerCallback):
    """Has each push of `trainer`, set later, end before the next step: Trainer skips one while another goes on."""

    trainer = None

    def on_step_begin(self, args, state, control, **kwargs):
        if getattr(self.trainer, "push_in_progress", None) is not None:
            self.trainer.push_in_progress.wait_until_done()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A running `HubServer` that this process's client talks to, with the right to write; without waits or offline."""
    server = HubServer()
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(hf_api.api, "endpoint", server.endpoint)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None))  # the client waits 23 s in all
    monkeypatch.setenv("HF_TOKEN", "hf_loopbackwrite")
    yield server
    server.stop()
