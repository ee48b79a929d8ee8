"""A grammar over words → an automaton over tokens, made as it is walked: what decoding may write next.

Every place in the grammar (a `Config`) gets, when it is first reached, a trie of the tokens of its next words.
Behind a prefix stand all the nodes that its tokens may have led to; such a set is one state (the subset
construction of Rabin and Scott 1959), and states are kept. A grammar of any size costs only what was visited.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from speechformer.grammar import Config, Grammar
from speechformer.network import ANY_WORD
from speechformer.tokenizer import EOS, UNK, Tokenizer, normalise


@dataclass(eq=False)
class _Node:
    """A node of a trie: the tokens that lead on, and the places reached where a word ends here."""

    arcs: dict[int, _Node] = field(default_factory=dict)
    arrivals: dict[Config, None] = field(default_factory=dict)
    ends: bool = False


class TokenAutomaton:
    """Which tokens may follow which, for `decoding.search`. A state is a number; 0 is the begin.

    Words are spelt in the one way that the tokenizer spells them; those of a wildcard by any tokens.
    """

    def __init__(self, grammar: Grammar, tokenizer: Tokenizer) -> None:
        self.grammar, self.tokenizer = grammar, tokenizer
        self.tries: dict[Config, tuple[_Node, ...]] = {}
        self.spelling: dict[tuple[str, ...], list[int]] = {}
        self.lock = threading.Lock()
        self.ids: dict[frozenset[_Node], int] = {}
        self.nodes: list[frozenset[_Node]] = []
        self.nexts: list[dict[int, int]] = []
        self.masks: list[npt.NDArray[np.bool_] | None] = []
        pieces = [str(tokenizer.processor.IdToPiece(i)) for i in range(len(tokenizer))]
        self.begins = [i for i, piece in enumerate(pieces) if i > UNK and piece.startswith("▁")]
        self.goes_on = [i for i, piece in enumerate(pieces) if i > UNK and not piece.startswith("▁")]
        self.is_blank = [not normalise(piece) for piece in pieces]  # of no letters: a lone ▁ or apostrophe
        self._number(frozenset([_Node(arrivals={grammar.start: None})]))

    def allowed(self, state: int) -> npt.NDArray[np.bool_]:
        """Return `allowed_V`, True where a token may come next; EOS where a sentence may end."""
        mask_V = self.masks[state]
        if mask_V is None:
            mask_V = np.zeros(len(self.tokenizer), np.bool_)
            nodes = self.nodes[state]
            mask_V[[token for node in nodes for token in node.arcs]] = True
            mask_V[EOS] = any(node.ends for node in nodes)
            self.masks[state] = mask_V
        return mask_V

    def next(self, state: int, token: int) -> int:
        """Return the state after a token that is allowed."""
        if token in self.nexts[state]:
            return self.nexts[state][token]
        with self.lock:  # threads that decode at once share the states
            nodes = frozenset(node.arcs[token] for node in self.nodes[state] if token in node.arcs)
            self.nexts[state][token] = self._number(nodes)
        return self.nexts[state][token]

    def accepts(self, tokens: list[int]) -> bool:
        """Say whether a token sequence is a sentence of the grammar, spelt as the tokenizer spells it."""
        state = 0
        for token in tokens:
            if not self.allowed(state)[token]:
                return False
            state = self.next(state, token)
        return bool(self.allowed(state)[EOS])

    def _number(self, nodes: frozenset[_Node]) -> int:
        if nodes not in self.ids:
            self.ids[nodes] = len(self.nodes)
            self.nodes.append(self._close(nodes))
            self.nexts.append({})
            self.masks.append(None)
        return self.ids[nodes]

    def _close(self, nodes: frozenset[_Node]) -> frozenset[_Node]:
        """Add the tries of the places where words end."""
        closed = set(nodes)
        for node in nodes:
            for config in node.arrivals:
                closed.update(self._tries(config))
        return frozenset(closed)

    def _tries(self, config: Config) -> tuple[_Node, ...]:
        """Return the trie of the words that may follow, and where any word may, a second one of all words."""
        if config not in self.tries:
            root, any_word = _Node(ends=self.grammar.ending(config) is not None), _Node()
            for step in self.grammar.steps(config):
                if step.words == (ANY_WORD,):
                    heard, blank = _Node(arrivals={step.config: None}), _Node()
                    heard.arcs = dict.fromkeys(self.goes_on, heard)
                    blank.arcs = {token: blank if self.is_blank[token] else heard for token in self.goes_on}
                    any_word.arcs = {token: blank if self.is_blank[token] else heard for token in self.begins}
                    continue
                node = root
                for token in self._spell(step.words):
                    node = node.arcs.setdefault(token, _Node())
                node.arrivals[step.config] = None
            self.tries[config] = (root, any_word) if any_word.arcs else (root,)
        return self.tries[config]

    def _spell(self, words: tuple[str, ...]) -> list[int]:
        if words not in self.spelling:
            self.spelling[words] = self.tokenizer.encode(" ".join(words))
        return self.spelling[words]
