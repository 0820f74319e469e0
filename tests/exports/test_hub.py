"""What is pushed is what is pulled, or an error says what is wrong and nothing is half there."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from moonlib.artifacts.checksums import SUMS, seal
from moonlib.cli import main
from moonlib.exports.hub import HubError, pull, push

huggingface_hub = pytest.importorskip("huggingface_hub")


@dataclass
class Hub:
    """What a stub of the Hugging Face hub holds, and what it does wrong.

    Attributes:
        url: its address.
        branches: files by repository and branch.
        objects: uploaded large files by their SHA-256.
        private: repositories that are private.
        fails: beginning of a path that is answered with 400.
        corrupts: a file of which a byte is changed on its way to whoever downloads it.
        asked: methods and paths, in order.
    """

    url: str = ""
    branches: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    fails: str = "none"
    corrupts: str = ""
    asked: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """The few endpoints that huggingface_hub calls to make a repository, commit to it and download from it."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, content: Any = None, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_one(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path).strip("/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.asked.append(f"{self.command} /{path}")
        if path.startswith(hub.fails):
            return self.answer(
                400, {"error": "the disk of the hub is full"}, X_Error_Message="the disk of the hub is full"
            )
        if self.headers.get("Authorization") == "Bearer reader" and self.command in ("POST", "PUT"):
            return self.answer(403, {"error": "read only"}, X_Error_Message="read only")
        parts = path.split("/")
        if path == "api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'shop'}/{asked['name']}"
            if repo in hub.branches:
                return self.answer(409, {"url": f"{hub.url}/{repo}"})
            hub.branches[repo] = {"main": {}}
            if asked.get("private") or asked.get("visibility") == "private":
                hub.private.add(repo)
            return self.answer(200, {"url": f"{hub.url}/{repo}"})
        if path == "api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if parts[0] == "lfs":
            assert hashlib.sha256(body).hexdigest() == parts[1]
            hub.objects[parts[1]] = body
            return self.answer(200)
        repo = "/".join(parts[2:4] if parts[0] == "api" else parts[:2]).removesuffix(".git")
        if repo not in hub.branches:
            return self.answer(404, {"error": "no such repository"}, X_Error_Code="RepoNotFound")
        if parts[-3:] == ["lfs", "objects", "batch"]:
            uploads = [
                {**each, "actions": {"upload": {"href": f"{hub.url}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return self.answer(200, {"transfer": "basic", "objects": uploads})
        branches = hub.branches[repo]
        verb, revision = (parts[4], parts[5]) if parts[0] == "api" and len(parts) > 5 else ("", "main")
        if parts[0] != "api":
            verb, revision = parts[2], parts[3]
        if verb == "branch":
            branches.setdefault(revision, {})
            return self.answer(200)
        revision = revision.removeprefix("commit-of-")
        if revision not in branches:
            return self.answer(404, {"error": "no such revision"}, X_Error_Code="RevisionNotFound")
        files = branches[revision]
        if verb == "preupload":
            modes = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for each in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": modes})
        if verb == "commit":
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.objects[value["oid"]]
            done = {"commitUrl": f"{hub.url}/{repo}/commit/{revision}", "commitOid": f"commit-of-{revision}"}
            return self.answer(200, {**done, "success": True})
        if verb == "resolve":
            content = files["/".join(parts[4:])]
            if path.endswith(f"/{hub.corrupts}"):
                content = content[:-1] + bytes([content[-1] ^ 1])
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            return self.answer(200, content, ETag=etag, X_Repo_Commit=f"commit-of-{revision}")
        siblings = [{"rfilename": name} for name in files]
        about = {"id": repo, "modelId": repo, "sha": f"commit-of-{revision}", "private": repo in hub.private}
        return self.answer(200, {**about, "siblings": siblings, "tags": []})

    do_GET = do_HEAD = do_POST = do_PUT = handle_one


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A stub of the hub that this process takes for the hub."""
    holds = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfThisTest", (Handler,), {"hub": holds}))
    holds.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", holds.url)
    monkeypatch.setenv("HF_TOKEN", "writer")
    # Both are read when it is imported.
    template = f"{holds.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", holds.url)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    yield holds
    server.shutdown()
    server.server_close()


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A folder as `moonlib export` writes one."""
    folder = tmp_path / "shipped"
    (folder / "text").mkdir(parents=True)
    (folder / "config.json").write_text('{"moonlib_export": 1, "fingerprint": "0123456789abcdef"}')
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 64)
    (folder / "text/config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# shop\n")
    seal(folder, [path for path in folder.rglob("*") if path.name != "README.md"])
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_pushed_is_what_is_pulled(
    hub: Hub, shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(shipped), "shop/encoder", "--private"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{hub.url}/shop/encoder/commit/main", "next: moonlib pull shop/encoder DIR"]
    assert hub.branches["shop/encoder"]["main"] == content(shipped) and hub.private == {"shop/encoder"}
    assert [line for line in hub.asked if "/commit/" in line] == ["POST /api/models/shop/encoder/commit/main"]
    assert main(["pull", "shop/encoder", str(tmp_path / "pulled")]) == 0
    assert content(tmp_path / "pulled") == content(shipped)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pulled", "shipped"]


def test_a_revision_has_its_own_export(hub: Hub, shipped: Path, tmp_path: Path) -> None:
    push(shipped, "shop/encoder")
    (shipped / "config.json").write_text('{"moonlib_export": 1, "fingerprint": "second"}')
    seal(shipped, [path for path in shipped.rglob("*") if path.name != "README.md"])
    push(shipped, "shop/encoder", revision="next")
    pull("shop/encoder", tmp_path / "main")
    pull("shop/encoder", tmp_path / "next", revision="next")
    assert content(tmp_path / "next") == content(shipped) != content(tmp_path / "main")


def test_what_is_not_part_of_the_export_stays(
    hub: Hub, shipped: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (shipped / "secret.env").write_text("KEY=1")
    push(shipped, "shop/encoder")
    assert "left out, because moonlib.sha256 does not list them: secret.env" in caplog.text
    hub.branches["shop/encoder"]["main"]["pickled.bin"] = b"\x80\x04."
    pull("shop/encoder", tmp_path / "pulled")
    assert {"secret.env", "pickled.bin"}.isdisjoint(content(tmp_path / "pulled"))
    assert not [line for line in hub.asked if line.endswith("pickled.bin")]


def test_a_push_that_breaks_half_way_leaves_the_repository_as_it_was(hub: Hub, shipped: Path) -> None:
    push(shipped, "shop/encoder")
    before = dict(hub.branches["shop/encoder"]["main"])
    (shipped / "model.safetensors").write_bytes(b"others")
    seal(shipped, [path for path in shipped.rglob("*") if path.name != "README.md"])
    for step in ("lfs/", "api/models/shop/encoder/commit", "api/models/shop/encoder/preupload"):
        hub.fails = step
        with pytest.raises(HubError, match="nothing was committed, the repository is as it was"):
            push(shipped, "shop/encoder")
        assert hub.branches["shop/encoder"]["main"] == before


def test_who_may_not_push_is_told(hub: Hub, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "reader")
    with pytest.raises(HubError, match=r"answers 403 for shop/encoder, this token may not do that: `hf auth login`"):
        push(shipped, "shop/encoder")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(HubError, match="the hub wants a token that may write: run `hf auth login`, or set HF_TOKEN"):
        push(shipped, "shop/encoder")
    assert not hub.branches


def test_a_public_repository_is_not_taken_for_a_private_one(hub: Hub, shipped: Path) -> None:
    hub.branches["shop/encoder"] = {"main": {}}
    with pytest.raises(HubError, match="is there already, and public: make it private in its settings"):
        push(shipped, "shop/encoder", private=True)
    assert hub.branches == {"shop/encoder": {"main": {}}}


def test_a_pull_that_does_not_match_writes_nothing(hub: Hub, shipped: Path, tmp_path: Path) -> None:
    push(shipped, "shop/encoder")
    out = tmp_path / "pulled"
    for name in ("model.safetensors", "text/config.json"):
        hub.corrupts = name
        with pytest.raises(HubError, match=rf"shop/encoder/{name} is damaged: its SHA-256 .*pulled was not written"):
            pull("shop/encoder", out)
    hub.corrupts = SUMS
    with pytest.raises(HubError, match=r"its lines are not as they were written.*; .*pulled was not written"):
        pull("shop/encoder", out)
    hub.corrupts = ""
    files = hub.branches["shop/encoder"]["main"]
    lost = files.pop("model.safetensors")
    with pytest.raises(HubError, match=r"shop/encoder lacks model\.safetensors, which its moonlib\.sha256 lists"):
        pull("shop/encoder", out)
    files["model.safetensors"] = lost
    hub.fails = "shop/encoder/resolve/commit-of-main/model"
    with pytest.raises(HubError, match="was not written"):
        pull("shop/encoder", out)
    assert [path.name for path in tmp_path.iterdir()] == ["shipped"]


def test_what_holds_no_export_is_told(hub: Hub, shipped: Path, tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"has no model shop/encoder, or shows it to nobody .*was not written"):
        pull("shop/encoder", tmp_path / "out")
    push(shipped, "shop/encoder")
    with pytest.raises(HubError, match="shop/encoder has no revision v2; "):
        pull("shop/encoder", tmp_path / "out", revision="v2")
    hub.branches["shop/bert"] = {"main": {"config.json": b"{}", "pytorch_model.bin": b""}}
    with pytest.raises(HubError, match=r"shop/bert holds no export of moonlib's, it has no moonlib\.sha256"):
        pull("shop/bert", tmp_path / "out")
    with pytest.raises(HubError, match="is no name of a repository, expected owner/name"):
        pull("a/b/c", tmp_path / "out")
    with pytest.raises(FileExistsError, match="is there already"):
        pull("shop/encoder", shipped)
    assert [path.name for path in tmp_path.iterdir()] == ["shipped"]


def test_a_list_of_checksums_leads_nowhere_else(hub: Hub, shipped: Path, tmp_path: Path) -> None:
    push(shipped, "shop/encoder")
    listed = f"{'0' * 64}  ../stolen\n".encode()
    mark = b"# the lines above: " + hashlib.sha256(listed).hexdigest().encode() + b"\n"
    hub.branches["shop/encoder"]["main"][SUMS] = listed + mark
    with pytest.raises(HubError, match=r"lists '\.\./stolen', which is no file of an export"):
        pull("shop/encoder", tmp_path / "out")


def test_an_export_that_is_damaged_or_none_is_not_pushed(hub: Hub, shipped: Path, tmp_path: Path) -> None:
    (shipped / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(HubError, match=r"model\.safetensors is damaged.*nothing was pushed"):
        push(shipped, "shop/encoder")
    (shipped / SUMS).unlink()
    with pytest.raises(HubError, match=r"has no moonlib\.sha256, by which a pull knows"):
        push(shipped, "shop/encoder")
    with pytest.raises(HubError, match=r"is not an export, it has no config\.json"):
        push(tmp_path, "shop/encoder")
    (shipped / "config.json").write_text('{"model_type": "bert"}')
    seal(shipped)
    with pytest.raises(HubError, match=r"shipped.*(another kind of model's|no file of an export)"):
        push(shipped, "shop/encoder")
    assert not hub.asked


def test_without_a_network_or_the_library_it_says_so(
    hub: Hub, shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if int(huggingface_hub.__version__.split(".")[0]) > 0:  # before, a session kept what it was made with
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
            pull("shop/encoder", tmp_path / "out")
    monkeypatch.setattr("moonlib.exports.hub.find_spec", lambda _: None)
    with pytest.raises(HubError, match=r"push and pull need huggingface_hub: pip install 'moonlib-embedding\[hub\]'"):
        push(shipped, "shop/encoder")


def test_a_folder_stands_for_a_repository(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert push("shipped", "./shared/encoder") == "shared/encoder"
    assert pull("./shared/encoder", "pulled") == Path("pulled")
    assert content(tmp_path / "pulled") == content(shipped)
    with pytest.raises(FileExistsError, match="is there already"):
        push("shipped", "./shared/encoder")
    with pytest.raises(HubError, match="--private is of a repository on the hub"):
        push("shipped", "./other", private=True)
    (tmp_path / "shared/encoder/text/config.json").write_text("[]")
    with pytest.raises(HubError, match=r"shared/encoder/text/config\.json is damaged"):
        pull("./shared/encoder", "again")
    shutil.rmtree(tmp_path / "shared/encoder/text")
    with pytest.raises(HubError, match=r"lacks text/config\.json"):
        pull("./shared/encoder", "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pulled", "shared", "shipped"]
