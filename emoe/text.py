"""Prompt -> tokens -> text states, through transformers' CLIP.

Axes: b prompts, n tokens (77), c channels of the text encoder (768 in SD1.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from emoe.errors import EmoeError

SPARE = 64  # rows of a text encoder that no token uses, as padding leaves them; more, and the tokenizer is another's


class TextStates(NamedTuple):
    prompts: list[str]
    states: Tensor  # (b, n, c), after the final layer norm
    content: Tensor  # (b, n) bool: the content tokens and the first end token
    truncated: list[bool]  # whose end did not fit into the n tokens

    @property
    def empty(self) -> Tensor:
        """(b,) bool: the prompts that say nothing, whose content is the end token alone."""
        return self.content.sum(dim=1) == 1


class TextEncoder:
    """A tokenizer and a text encoder, which stays in float32 so that no route depends on the network's dtype."""

    def __init__(self, model: CLIPTextModel, tokenizer: CLIPTokenizer):
        config, words = model.config, tokenizer.get_vocab()
        self.model, self.tokenizer = model, tokenizer
        self.length = config.max_position_embeddings
        self.end = tokenizer.eos_token_id
        self.pad = self.end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        # what tells two of them apart that have equal weights
        network = config.num_attention_heads, config.hidden_act, config.layer_norm_eps
        self.settings = (*network, self.end, self.pad, tuple(sorted(words.items())))
        tokens = 1 + max(words.values(), default=-1)
        if not 0 <= config.vocab_size - tokens <= SPARE or self.end is None:
            raise EmoeError(
                f"the tokenizer ({tokens} tokens, the last one {self.end}) does not go with the text encoder "
                f"({config.vocab_size} tokens); name the one that does under `tokenizer`"
            )

    @torch.inference_mode()
    def __call__(self, prompts: list[str]) -> TextStates:
        """Padding is attended to and positions count from 0, as Stable Diffusion was trained."""
        rows = self._tokens(prompts)
        truncated = [len(row) > self.length for row in rows]
        rows = [row if len(row) <= self.length else [*row[: self.length - 1], self.end] for row in rows]
        rows = [row + [self.pad] * (self.length - len(row)) for row in rows]

        ids = torch.tensor(rows, device=self.model.device)
        position = torch.arange(self.length, device=ids.device)
        first_end = (ids == self.end).int().argmax(dim=1, keepdim=True)
        content = (position > 0) & (position <= first_end)
        # positions are given because files may carry corrupted ones, and a model built on meta has none
        states = self.model(ids, position_ids=position[None]).last_hidden_state
        return TextStates(prompts, states, content, truncated)

    def empty(self, prompts: Sequence[str]) -> list[bool]:
        """Which of them say nothing: their first token behind the start is the end."""
        return [row[1:2] == [self.end] for row in (self._tokens(list(prompts)) if prompts else [])]

    def _tokens(self, prompts: list[str]) -> list[list[int]]:
        try:
            return self.tokenizer(prompts, verbose=False)["input_ids"]
        except Exception as error:  # whatever a damaged file makes of the library
            raise EmoeError(
                f"the tokenizer cannot read a prompt ({type(error).__name__}); name another under `tokenizer`"
            ) from error
