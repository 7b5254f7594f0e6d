"""What a user should know of prompts that are not read as they were meant; said of a few, as lists have thousands."""

from __future__ import annotations

import logging
import re

from emoe.text import TextStates

log = logging.getLogger("emoe")

NAMED = 3  # prompts that are too long
MARKUP = re.compile(r"<(lora|lyco|hypernet):|\([^()]+:\d+(\.\d+)?\)")  # what web UIs take out of a prompt


class Notices:
    """Warns of the first few prompts that are cut (records tell of all), and once of web UIs' markup."""

    def __init__(self, length: int):
        """length: the tokens that the text encoder sees."""
        self.length = length
        self.cut: set[str] = set()
        self.told_of_markup = False

    def of(self, text: TextStates) -> None:
        for prompt, cut in zip(text.prompts, text.truncated, strict=True):
            if cut and prompt not in self.cut and len(self.cut) < NAMED:
                self.cut.add(prompt)
                more = "; if there are others, only their records say so" if len(self.cut) == NAMED else ""
                log.warning("%r is longer than %d tokens; the rest of it is not seen%s", prompt[:60], self.length, more)
            if not self.told_of_markup and MARKUP.search(prompt):
                log.warning("%r: weights in brackets and <lora:...> are read as they stand here, as text", prompt[:60])
                self.told_of_markup = True
