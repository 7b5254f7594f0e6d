"""What must not be shown: the tokens that downloads are made with, and what addresses carry."""

from __future__ import annotations

import os
import re
import sys

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "CIVITAI_TOKEN")
SHORTEST = 8  # no service's are; to hide a word of ours would help nobody
LOGIN = re.compile(r"(?<=://)[^\s/@]+(?=@)")
QUERY = re.compile(r"(?<=[?&])([\w.-]+)=[^\s&#'\"<>)]+")


def redacted(text: str) -> str:
    """A text of ours or of a library's, with stars in their places."""
    for token in _tokens():
        for form in {token, repr(token)[1:-1]}:  # libraries quote what they complain about
            text = text.replace(form, "***")
    return QUERY.sub(r"\1=***", LOGIN.sub("***", text))


def _tokens() -> set[str]:
    found = {os.environ.get(name, "").strip() for name in TOKENS}
    if "huggingface_hub" in sys.modules:  # nobody else has one on disk
        found.add(sys.modules["huggingface_hub"].get_token() or "")
    return {token for token in found if len(token) >= SHORTEST}
