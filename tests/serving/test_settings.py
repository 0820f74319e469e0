"""Limits from a file and from options."""

from __future__ import annotations

from pathlib import Path

from moonlib.serving.settings import ServeSettings, read_settings


def test_options_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("serve: {batch: 16, wait_ms: 2, max_bytes: 5_000}")
    found = read_settings(file, batch=8, queue=None)
    assert found == ServeSettings(batch=8, wait_ms=2.0, max_bytes=5_000)
    assert read_settings() == ServeSettings()
