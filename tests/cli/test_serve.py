"""`moonlib serve`, from a run to an answer and to its end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from moonlib.cli.app import main
from moonlib.data.dataset import Dataset
from moonlib.exports.folder import export
from moonlib.inference.center import Center
from moonlib.serving.address import bound
from moonlib.testing.processes import Program
from tests.centers import make_bare


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    content = None if body is None else json.dumps(body) if isinstance(body, dict) else body
    kind = "application/json" if isinstance(body, dict) else "application/x-www-form-urlencoded"
    connection.request(method, path, content, {"content-type": kind, **headers})
    answer = connection.getresponse()
    data = answer.read()
    return answer.status, json.loads(data), answer.headers.get("moonlib-snapshot", "")


def test_a_run_is_published_served_written_to_and_ended(finished_run: Path, tiny: Dataset, tmp_path: Path) -> None:
    shipped = export(finished_run, tmp_path / "shipped")
    center = Center.create(tmp_path / "shop", shipped)
    rows = [{"item_id": n, "title": f"mug {n}", "price": float(n)} for n in range(20)]
    center.upsert(rows)
    (tmp_path / "token").write_text("hush\n")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    words = ["-m", "moonlib", "serve", center.path, "--port", str(port), "--token-file", tmp_path / "token"]
    program = Program([*words, "--timeout-ms", "30000"], cwd=tmp_path, env=dict(os.environ))
    try:
        for _ in range(600):
            try:
                status, found, name = ask(port, "POST", "/v1/search", "text=mug+7&k=3&where=%7B%22price%22%3A7%7D")
                break
            except OSError:
                assert program.poll() is None, program.communicate()
                time.sleep(0.1)
        assert status == 200, found
        assert [hit["item_id"] for hit in found["hits"]] == [7]
        assert name == found["snapshot"] == center.view.name
        assert ask(port, "POST", "/v1/search", "text=mug&where=%7B%22colour%22%3A7%7D")[0] == 422
        more = {"products": [{"item_id": 99, "title": "blue jug", "price": 2.5}]}
        assert ask(port, "POST", "/v1/products", more)[0] == 401
        status, written, _ = ask(port, "POST", "/v1/products", more, authorization="Bearer hush")
        assert status == 202 and written["encoded"] == 1, written
        found = ask(port, "POST", "/v1/search", "text=blue+jug&k=1&where=%7B%22price%22%3A2.5%7D")[1]
        assert found["hits"][0]["row"]["title"] == "blue jug"
        status, refused, _ = ask(
            port, "POST", "/v1/products", {"products": [{"title": "no id"}]}, authorization="Bearer hush"
        )
        assert status == 422 and "no column 'item_id', nor 'price' (it has title)" in refused["error"]["message"]
        assert ask(port, "DELETE", "/v1/products", {"ids": [99]}, authorization="Bearer hush")[1]["deleted"] == 1
        program.send_signal(signal.SIGTERM)
        out, err = program.communicate(timeout=60)
    finally:
        program.kill()
    assert program.returncode == 0, err
    assert out == ""
    lines = [json.loads(line)["message"] for line in err.splitlines()]
    assert any("live has no snapshot yet: `moonlib publish` builds one" in line for line in lines)
    assert f"listening at http://127.0.0.1:{port}/" in lines
    assert all(json.loads(line) for line in err.splitlines())
    assert "mug" not in err and "jug" not in err and "hush" not in err
    assert center.view.has([99]).tolist() == [False]


def test_a_server_that_scores_logs_nothing_but_json(center_application: Path, tmp_path: Path) -> None:
    with bound("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    words = ["serve", center_application.parent / "center", "--score", center_application, "--port", str(port)]
    program = Program(["-m", "moonlib", *words], cwd=tmp_path, env=dict(os.environ))
    try:
        for _ in range(600):
            try:
                assert ask(port, "POST", "/v1/score", {"candidates": [{"item_id": 1}]})[0] == 200
                break
            except OSError:
                assert program.poll() is None, program.communicate()
                time.sleep(0.1)
        program.send_signal(signal.SIGTERM)
        _, err = program.communicate(timeout=60)
    finally:
        program.kill()
    assert program.returncode == 0
    assert [line for line in err.splitlines() if not line.startswith("{")] == []


def test_what_is_wrong_is_told_before_an_encoder_is_opened(tmp_path: Path, capsys: Any) -> None:
    center = str(make_bare(tmp_path / "shop", "int8"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", center, "--port", port]) == 2
        assert capsys.readouterr().err.startswith(f"moonlib: 127.0.0.1:{port}: in use; choose another port")
        assert main(["serve", center, "--port", port, "--alias", "live", "--alias", "next"]) == 2
        assert "no alias 'next'; it has live" in capsys.readouterr().err
    code = f"""
import sys
from moonlib.cli.app import main
assert main(["serve", {center!r}, "--port", "99999"]) == 2
assert not {{"torch", "fastapi", "uvicorn"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)  # of its own, as moonlib's have torch already


def test_mistakes_are_told_on_one_line(tmp_path: Path, capsys: Any) -> None:
    assert main(["serve", str(tmp_path / "none")]) == 2
    assert "no such center" in capsys.readouterr().err
    config = tmp_path / "serve.yaml"
    for text, said in (
        ("serve: {btach: 3}", "btach"),
        ("serve: {batch: many}", "batch"),
        ("serve: {batch: 0}", "batch"),
        ("batch: 3", "serve"),
        ("serve: {}\nother: 1", "other"),
        ("{", "YAML"),
    ):
        config.write_text(text)
        assert main(["serve", str(tmp_path), "--config", str(config)]) == 2
        error = capsys.readouterr().err
        assert said in error and len(error.splitlines()) == 1, error
