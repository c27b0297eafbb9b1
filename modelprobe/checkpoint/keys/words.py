"""Whether two names of a block can mean the same thing: told by their words, not by any list of models."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

WORD = re.compile(r"\d+|[A-Z]?[a-z]+|[A-Z]+(?![a-z])")

NEUTRAL = frozenset(("my", "new", "old", "the", "last", "final", "main", "module", "net", "network", "model"))
"""Words that say nothing about what a block is for."""

SYNONYMS = (
    ("head", "heads", "fc", "classifier", "linear", "output", "out", "cls", "logits", "dense", "lin"),
    ("layer", "layers", "block", "blocks", "h", "stage", "stages", "resblocks", "cells"),
    ("norm", "norms", "ln", "bn", "gn", "normalization", "layernorm", "batchnorm"),
    ("embed", "embedding", "embeddings", "emb", "wte", "tok", "token"),
    ("backbone", "body", "trunk", "base", "encoder", "enc", "features", "extractor"),
    ("mlp", "ffn", "ff", "feedforward"),
    ("attn", "attention", "mha"),
    ("downsample", "shortcut", "skip"),
    ("conv", "convs", "convolution", "proj", "projection"),
)
MIN_ABBREVIATION = 3

NORMAL = "qkv"
_ORDERS = frozenset(map("".join, itertools.permutations(NORMAL)))
_LETTERS = {"query": "q", "key": "k", "value": "v"}
_FUSED = {"in_proj": NORMAL, "c_attn": NORMAL}
"""Names to which torch and GPT-2 gave an order of query, key and value."""

CONFLICT, UNLIKE = "conflict", "unlike"


def projection_order(name: str) -> str:
    """The order of query, key and value that a name tells: `kqv` for `to_kqv` and `key_query_value`; else nothing."""
    words = [_LETTERS.get(word, word) for word in name.lower().split("_")]
    words += ["".join(words[at : at + 3]) for at in range(len(words) - 2)]
    bare = [word[1:] if word[1:] in _ORDERS else word for word in words]  # Wqkv
    return next((word for word in bare if word in _ORDERS), _FUSED.get(name, ""))


def _word(text: str) -> str:
    return next((group[0] for group in SYNONYMS if text in group), text)


def _meaning(name: str) -> set[str]:
    """The words of a name that say what it is, spelled in one way; `q_proj2` is a projection, q and 2."""
    if projection_order(name):
        return {NORMAL}
    found = [text.lower() for text in WORD.findall(name)]
    return {_word(text) for text in found if text not in NEUTRAL}


def _paired(word: str, others: Sequence[str]) -> bool:
    """Whether a word is among others, or one of them is its abbreviation."""
    return any(
        word == other
        or (min(len(word), len(other)) >= MIN_ABBREVIATION and (word.startswith(other) or other.startswith(word)))
        for other in others
    )


def words_apart(old: str, new: str) -> str:
    """How far the words of two names are apart: nothing where they can mean the same, else CONFLICT or UNLIKE.

    CONFLICT is a word in common and others on either side (`audio_encoder`, `image_encoder`): two of a kind. Numbers
    count only where both names have one: `fc1` may be `head`, it is not `fc2`.
    """
    mine, theirs = sorted(_meaning(old)), sorted(_meaning(new))
    if old.isdigit() or new.isdigit():
        return ""  # the number of a child says nothing about it
    if not all(any(word.isdigit() for word in words) for words in (mine, theirs)):
        mine, theirs = [[word for word in words if not word.isdigit()] for words in (mine, theirs)]
    alone = [w for w in mine if not _paired(w, theirs)], [w for w in theirs if not _paired(w, mine)]
    if alone == ([], []):
        return ""
    return CONFLICT if all(alone) and len(alone[0]) < len(mine) else UNLIKE
