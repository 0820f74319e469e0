"""Puts an export on the Hugging Face hub, or into a folder that others read, and fetches it, with checksums compared.

What travels is what moonlib.sha256 lists, that list and the model card, and nothing else. A push is one commit, so that
a repository holds the whole export or what it held before. A pull opens no file but the list and config.json.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import moonlib
from moonlib.artifacts.checksums import SUMS, Damaged, sums, verify_all
from moonlib.artifacts.layout import EXPORT
from moonlib.artifacts.reading import Unreadable, read_mapping
from moonlib.system.disk import rename, writing
from moonlib.system.versions import DISTRIBUTION

log = logging.getLogger(__name__)

CARD = "README.md"
MARKS = ("moonlib_export", "moonlib_program")
"""Keys of config.json, one of which every export has."""


class HubError(ValueError):
    """Something that keeps an export from being pushed or pulled; the message says what to do."""


def push(export: str | Path, repo: str, *, private: bool = False, revision: str | None = None) -> str:
    """Put an export into a repository of the Hugging Face hub, in one commit, or into a folder.

    Args:
        export: what `moonlib export` wrote.
        repo: ``owner/name``, which is made if there is none; or a path that begins with ``/``, ``./``, ``../`` or
            ``~/``, a folder that is not there yet.
        private: make the repository a private one.
        revision: the branch, which is made if there is none; by default ``main``.

    Returns:
        Where it is: the address of the commit, or the folder.

    Raises:
        HubError: it is no export or damaged, a token or the hub is missing, the hub refuses, or ``private`` is asked
            for and the repository is public already. The repository is then as it was before.
        FileExistsError: the folder is there already.

    Example: ``push("shipped", "our-shop/product-encoder", private=True)``
    """
    folder = Path(export)
    files = _files(folder)
    for problem in verify_all(folder):
        raise HubError(f"{problem}; nothing was pushed")
    left = sorted(path.name for path in folder.iterdir() if path.name not in {name.split("/")[0] for name in files})
    if left:
        log.warning(f"left out, because {SUMS} does not list them: {', '.join(left)}")
    if (place := _folder(repo)) is not None:
        _only_on_hub("push", private, revision)
        _copied(folder, files, place)
        return str(place)
    api = _api()
    fingerprint = read_mapping(folder / EXPORT).get("fingerprint")
    with _told(repo, "nothing was committed, the repository is as it was"):
        from huggingface_hub import CommitOperationAdd, get_token

        if get_token() is None:
            raise HubError("the hub wants a token that may write: run `hf auth login`, or set HF_TOKEN")
        api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise HubError(f"{repo} is there already, and public: make it private in its settings, or leave --private")
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        commit = api.create_commit(
            repo,
            [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(folder / name)) for name in files],
            commit_message=f"Export of {fingerprint} by moonlib {moonlib.__version__}",
            revision=revision,
        )
    return str(commit.commit_url)


def pull(repo: str, out: str | Path, *, revision: str | None = None) -> Path:
    """Fetch an export from a repository of the Hugging Face hub, or from a folder, and compare its checksums.

    Only what its moonlib.sha256 lists is fetched, and the model card. None of it is unpickled, or run.

    Args:
        repo: ``owner/name``, or a path as in `push`.
        out: the folder, which takes its name when everything is there and as it was written.
        revision: a branch, a tag or a commit; by default ``main``.

    Returns:
        ``out``.

    Raises:
        HubError: there is no such repository or revision, it holds no export, or a file is not what was written.
        FileExistsError: ``out`` is there already.

    Example: ``moonlib.load(pull("our-shop/product-encoder", "shipped"))``
    """
    out = Path(out)
    if (place := _folder(repo)) is not None:
        _only_on_hub("pull", False, revision)
        _copied(place, _files(place), out)
        return out
    _refuse_others(out)
    api = _api()
    target = out.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch, writing(out):
        folder = Path(scratch) / target.name

        def fetch(name: str) -> None:
            from huggingface_hub import hf_hub_download

            # The library keeps notes beside what it downloads, which are not part of an export.
            path = hf_hub_download(
                repo, name, revision=commit, local_dir=Path(scratch) / "downloads", endpoint=api.endpoint
            )
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Path(path).replace(folder / name)

        with _told(repo, f"{out} was not written", revision):
            found = api.model_info(repo, revision=revision)
            commit, there = found.sha, {each.rfilename for each in found.siblings or ()}
            if SUMS not in there:
                raise HubError(f"{repo} holds no export of moonlib's, it has no {SUMS}; `moonlib push` puts one there")
            fetch(SUMS)
            names = _listed(folder, repo)
            if lost := sorted(set(names) - there):
                raise HubError(f"{repo} lacks {lost[0]}, which its {SUMS} lists: push the export again")
            for name in [*names, *({CARD} & there)]:
                fetch(name)
        _verify(folder, repo, out)
        rename(folder, target)
    return out


def _files(folder: Path) -> list[str]:
    """Names of the files of an export, checksums and model card among them.

    Raises:
        HubError: it is no export.
    """
    if not (folder / EXPORT).is_file():
        raise HubError(f"{folder} is not an export, it has no {EXPORT}; give what `moonlib export` wrote")
    if not (folder / SUMS).is_file():
        raise HubError(f"{folder} has no {SUMS}, by which a pull knows that nothing is lost: export the run again")
    names = _listed(folder, str(folder))
    _require_export(folder, str(folder))
    return [*names, SUMS, *([CARD] if (folder / CARD).is_file() else [])]


def _listed(folder: Path, told: str) -> list[str]:
    """Names that a list of checksums holds.

    Raises:
        HubError: the list is damaged, or leads out of the folder.
    """
    try:
        names = list(sums(folder))
    except (Damaged, UnicodeDecodeError) as error:
        raise HubError(f"{told}: {error}") from error
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or name in (SUMS, CARD):
            raise HubError(f"{told}: its {SUMS} lists {name!r}, which is no file of an export; nothing was written")
    if EXPORT not in names:
        raise HubError(f"{told} holds no export of moonlib's: its {SUMS} does not list {EXPORT}")
    return names


def _verify(folder: Path, told: str, out: Path) -> None:
    """Compare what came with what was written, before it takes its name."""
    for problem in verify_all(folder):
        what = problem.replace(str(folder), told).partition(";")[0]
        raise HubError(f"{what}; pull it again, or push it again where it was exported; {out} was not written")
    _require_export(folder, told)


def _require_export(folder: Path, told: str) -> None:
    try:
        config = read_mapping(folder / EXPORT)
    except (Unreadable, Damaged) as error:
        raise HubError(f"{told}: {error}") from error
    if not any(isinstance(config.get(mark), int) for mark in MARKS):
        raise HubError(f"{told}: its {EXPORT} was not written by `moonlib export`: it is another kind of model's")


def _folder(repo: str) -> Path | None:
    """The folder that stands for a repository; None for one on the hub."""
    return Path(repo).expanduser() if repo.startswith(("/", "./", "../", "~/")) else None


def _only_on_hub(verb: str, private: bool, revision: str | None) -> None:
    for option, given in (("--private", private), ("--revision", revision)):
        if given:
            raise HubError(f"{verb}: {option} is of a repository on the hub; a folder has none")


def _refuse_others(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there already; choose another place")


def _copied(folder: Path, files: list[str], out: Path) -> None:
    """Copy an export, whole or not at all."""
    _refuse_others(out)
    target = out.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch, writing(out):
        copied = Path(scratch) / target.name
        for name in files:
            (copied / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(folder / name, copied / name)
            except FileNotFoundError:
                raise HubError(f"{folder} lacks {name}, which its {SUMS} lists; {out} was not written") from None
        _verify(copied, str(folder), out)
        rename(copied, target)


def _api() -> Any:
    """The hub's client, of the address that HF_ENDPOINT names now."""
    if find_spec("huggingface_hub") is None:
        raise HubError(f"push and pull need huggingface_hub: pip install '{DISTRIBUTION}[hub]'")
    from huggingface_hub import HfApi

    endpoint = os.environ.get("HF_ENDPOINT") or None
    return HfApi(endpoint=endpoint, library_name="moonlib", library_version=moonlib.__version__)


@contextmanager
def _told(repo: str, state: str, revision: str | None = None) -> Iterator[None]:
    """Turn the many errors of huggingface_hub, and of the library that it speaks HTTP with, into one sentence.

    Args:
        repo: that was asked for.
        state: what is as it was.
        revision: that was asked for.
    """
    from huggingface_hub import errors

    where = os.environ.get("HF_ENDPOINT") or "the Hugging Face hub"
    try:
        yield
    except HubError as error:
        raise HubError(f"{error}; {state}") from error.__cause__
    except errors.HFValidationError as error:
        problem = f"'{repo}' is no name of a repository, expected owner/name ({str(error).splitlines()[0]})"
        raise HubError(f"{problem}; {state}") from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{repo} has no revision {revision or 'main'}; {state}") from error
    except errors.RepositoryNotFoundError as error:
        token = "shows it to nobody with this token (`hf auth login`, or HF_TOKEN)"
        raise HubError(f"{where} has no model {repo}, or {token}; {state}") from error
    except errors.OfflineModeIsEnabled as error:
        raise HubError(f"HF_HUB_OFFLINE is set, which keeps huggingface_hub from the network; {state}") from error
    except errors.HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        said = " ".join((getattr(error, "server_message", None) or str(error)).split())[:300]
        hint = ", this token may not do that: `hf auth login` with one that may" if status in (401, 403) else ""
        raise HubError(f"{where} answers {status} for {repo}{hint} ({said}); {state}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            raise  # of the disk, not the hub
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise HubError(f"{repo}: {where} cannot be reached, or broke off ({reason}); {state}") from error
