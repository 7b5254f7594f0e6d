"""What a source string means: a path, a Hub repository, or a Civitai model version.

    models/red.safetensors                          a local file (relative to weights.toml)
    models/red/                                     a local folder in the Hub's layout
    owner/name[@revision][/file or folder]          a repository on the Hugging Face Hub
    https://huggingface.co/owner/name[/...]         the same, as a page's address
    civitai:128713                                  a Civitai model version, by its number
    https://civitai.com/models/4384[?modelVersionId=128713]        a Civitai page
    https://civitai.com/api/download/models/128713[?fp=fp16&...]   a Civitai download link
    urn:air:sd1:checkpoint:civitai:4384@128713      a Civitai resource name (of a LoRA, `lora` for `checkpoint`)

A path that exists wins over a repository of the same name.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from emoe.errors import EmoeError

CIVITAI_HOSTS = ("civitai.com", "civitai.red", "civitai.green")
HUB_HOSTS = ("huggingface.co", "hf.co")
CHOICES = ("type", "format", "size", "fp", "fileId")  # what is read of a download link; the rest may hold secrets
WEIGHTS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin")

ADDRESS = re.compile(r"[A-Za-z]\w+:/")  # of any scheme; C:/ is a path
BARE = re.compile(rf"(www\.)?({'|'.join(map(re.escape, (*CIVITAI_HOSTS, *HUB_HOSTS)))})/")  # copied without https://
# Revisions that hold a slash are the Hub's pull requests and conversions; all others end at the next one.
HUB = re.compile(
    r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/@]+))?(/(?P<inner>.+?))?/?"
)


@dataclass(frozen=True)
class Local:
    path: Path


@dataclass(frozen=True)
class Hub:
    repo: str
    revision: str | None = None
    inner: str | None = None  # a file or folder in the repository


@dataclass(frozen=True)
class Civitai:
    version: int | None  # None: the newest version of the model
    model: int | None = None
    wanted: tuple[tuple[str, str], ...] = ()  # (("fp", "fp16"), ...), from a download link

    def __str__(self) -> str:
        return f"version {self.version}" if self.version else f"model {self.model}"


Source = Local | Hub | Civitai


def parse(text: str, start: Path = Path(), revision: str | None = None) -> Source:
    """Read a source string; relative paths are taken from the folder `start`.

    revision: the Hub revision where `text` names none. Raises EmoeError for what is none of the forms.
    """
    if text.startswith(("civitai:", "urn:air:")):
        return _civitai_id(text)
    if ADDRESS.match(text):
        return _address(text, revision)
    if BARE.match(text):
        return _address(f"https://{text}", revision)

    try:
        path = start / os.path.expanduser(text)  # leaves an unknown ~user as it is
    except ValueError:  # a ~user that no user can be
        path = start / text
    if os.path.exists(path):  # False for names that no file can have
        return Local(path)
    hub = HUB.fullmatch(text)
    # "owner/model.ckpt" is a path that is missing; "owner/name/model.ckpt" may be a file in a repository
    if hub and (hub["inner"] or not text.endswith(WEIGHTS)):
        return Hub(hub["repo"], hub["revision"] or revision, hub["inner"])
    raise EmoeError(
        f"there is no file or folder {path}, and {text!r} is neither owner/name of a Hub repository nor a Civitai "
        "address; check the path"
    )


def plain(text: str) -> str:
    """A source string as it may be shown: an address without its login, query and fragment, which may hold secrets."""
    if not ADDRESS.match(text) and not BARE.match(text) and not text.startswith(("civitai:", "urn:")):
        return text
    text = re.split("[?#]", text, maxsplit=1)[0]
    return re.sub(r"^(\w+:/+)[^/]*@", r"\1", text)


def _civitai_id(text: str) -> Civitai:
    match = re.fullmatch(
        r"civitai:(?P<version>\d{1,18})|urn:air:sd1:(?:checkpoint|lora|locon|lycoris|dora|vae):civitai:(?P<model>\d{1,18})@(?P<of>\d{1,18})",
        text,
    )
    if not match:
        raise EmoeError(
            f"source {plain(text)!r} is no Civitai version; write civitai: and the version's number (modelVersionId in "
            "the page's address), or urn:air:sd1:checkpoint:civitai:MODEL@VERSION"
        )
    return Civitai(int(match["version"] or match["of"]), int(match["model"]) if match["model"] else None)


def _address(text: str, revision: str | None) -> Source:
    try:
        url = urlsplit(text)
    except ValueError:  # whose message quotes the address, login and all
        raise EmoeError(f"source {plain(text)} is no address; copy it from the page again") from None
    host = (url.hostname or "").removeprefix("www.")
    query = dict(parse_qsl(url.query))
    if host in CIVITAI_HOSTS:
        if match := re.match(r"/api/download/models/(\d{1,18})$", url.path):
            return Civitai(int(match[1]), wanted=tuple(sorted((k, v) for k, v in query.items() if k in CHOICES)))
        if match := re.match(r"/models/(\d{1,18})(/|$)", url.path):
            version = re.fullmatch(r"\d{1,18}", query.get("modelVersionId", ""))
            return Civitai(int(version[0]) if version else None, int(match[1]))
    if host in HUB_HOSTS:
        match = re.fullmatch(
            r"/(?P<repo>[^/]+/[^/]+)(/(?:resolve|blob|tree)/(?P<revision>[^/]+)(/(?P<inner>.+?))?)?/?", url.path
        )
        if match:  # what is quoted stays in its part: refs%2Fpr%2F1 is one revision
            repo, named, inner = (unquote(part) if part else None for part in match.group("repo", "revision", "inner"))
            return Hub(repo, named or revision, inner)
    raise EmoeError(f"source {plain(text)} is no address emoe can download from; download the file and name its path")
