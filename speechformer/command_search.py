"""Which command of a set was said, or none: the search inside it, another beside it, and what becomes of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np

from speechformer.automaton import TokenAutomaton
from speechformer.beam_search import search
from speechformer.confidence import share, weigh
from speechformer.ctc import ctc_greedy
from speechformer.decoding import DecodingConfig, Floats, Hypothesis, Memory, Recogniser, Spelling
from speechformer.grammar import Interpretation
from speechformer.model_folder import Settings
from speechformer.rescoring import ctc_score, mean_hypothesis, rescore
from speechformer.transcript import Alternative, Command, Status

# Inside a command set the CTC head looks out for texts, and the decoder weighs the best of them, so many nats behind.
COMMAND_BEAM, COMMAND_THRESHOLD, COMMAND_TEXTS, COMMAND_NEAR = 256, 20.0, 8, 10.0
DICTATION_BEAM, DICTATION_THRESHOLD = 32, 10.0  # where any words may follow, both search together
LOOKOUT_REWARD, COMMAND_REWARD = 1.5, 2.5  # nats a token: what is heard badly can be optional
N_BEST = 5
DOUBT = 1.5  # two answers less than so many nats apart are nearly as likely
UNLIKE = 10.0  # nats less likely than what is heard freely: that is no command, whichever is the likeliest

Meanings = list[tuple[Hypothesis, Interpretation]]  # the best hypothesis of each, best first


@dataclass(frozen=True)
class CommandSearch:
    """Searches what was heard for the commands of an automaton; `decoding` is how it searches beside them."""

    recogniser: Recogniser
    settings: Settings
    automaton: TokenAutomaton
    decoding: DecodingConfig
    spelling: Spelling | None = None

    @cached_property
    def joint(self) -> DecodingConfig:
        """How a command is scored in the end."""
        return replace(self.decoding, token_reward=max(COMMAND_REWARD, self.decoding.token_reward))

    def inside(self, memory: Memory) -> list[list[Hypothesis]]:
        """Return the best commands of each utterance: the CTC head looks for them, the decoder weighs what it finds.

        Without the decoder the beam can be so wide that a command whose begin is badly heard is not lost. Where any
        words may be dictated the decoder has to help, though: it spells.
        """
        if self.automaton.grammar.has_wildcards:
            beam = max(DICTATION_BEAM, self.decoding.beam)
            config = replace(self.joint, beam=beam, n_best=N_BEST, beam_threshold=DICTATION_THRESHOLD)
            return search(self.recogniser, memory, config, self.automaton)
        config = DecodingConfig(
            beam=max(COMMAND_BEAM, self.decoding.beam),
            ctc_weight=1.0,
            n_best=COMMAND_TEXTS,
            token_reward=LOOKOUT_REWARD,
            beam_threshold=COMMAND_THRESHOLD,
            per_state=COMMAND_TEXTS,
        )
        found = search(self.recogniser, memory, config, self.automaton)
        near = [[one for one in some if one.score > some[0].score - COMMAND_NEAR] for some in found]
        return [some[:N_BEST] for some in rescore(self.recogniser, memory, self.joint, near)]

    def beside(self, memory: Memory, inside: Sequence[Sequence[Hypothesis]]) -> list[Hypothesis]:
        """Return what is heard without a command set; what the CTC head writes, where that is the best command."""
        written = ctc_greedy(memory.ctc_log_probs_BMV, memory.lengths_B)
        free = {
            row: some[0]
            for row, (some, path) in enumerate(zip(inside, written, strict=True))
            if some and path and list(some[0].tokens) == path
        }
        left = [row for row in range(len(inside)) if row not in free]
        if left:
            drafts = [self._draft(memory.best_path(row), inside[row], written[row]) for row in left]
            rest = Memory.join([(memory, np.array(left))])
            found = search(self.recogniser, rest, self.decoding, spelling=self.spelling, drafts=drafts)
            free |= {row: some[0] for row, some in zip(left, found, strict=True)}
        return [free[row] for row in range(len(inside))]

    @staticmethod
    def _draft(best_path: float, inside: Sequence[Hypothesis], written: Sequence[int]) -> Sequence[int]:
        """Return what a search that is not held to the commands is likely to find."""
        if inside and inside[0].ctc > best_path - UNLIKE:
            return inside[0].tokens
        return written

    def heard_again(
        self, memory: Memory, commands: Sequence[Sequence[Hypothesis]]
    ) -> list[dict[tuple[int, ...], Hypothesis]]:
        """Return, by their tokens, the hypotheses that another hearing gives each utterance's commands."""
        scored = ctc_score(memory, [[one.tokens for one in some] for some in commands])
        return [{one.tokens: one for one in some} for some in rescore(self.recogniser, memory, self.joint, scored)]

    def meanings(self, commands: Sequence[Hypothesis]) -> Meanings:
        """Return the best hypothesis of every meaning, best first."""
        meanings: Meanings = []
        for one in commands:
            meaning = self.automaton.grammar.interpret(self.settings.tokenizer.decode(one.tokens))
            if meaning and all(meaning != other for _, other in meanings):
                meanings.append((one, meaning))
        return meanings

    def command(self, meanings: Meanings, free: Hypothesis, blank: float, sound_D: Floats) -> Command:
        """Compare the grammar's hypotheses with the free one: accept the best, or say why not.

        `blank` is the mean log probability of the CTC blank, `sound_D` a row of `Memory.sounds`.
        """
        heard = self.settings.tokenizer.decode(free.tokens)
        if not meanings:
            status: Status = "not_a_command" if heard else "no_speech"
            return Command(status, 0.0, (), heard, {"speech": float(bool(heard)), "command": 0.0})
        best = meanings[0][0]
        rival = meanings[1][0] if len(meanings) > 1 else None
        texts = [self.settings.tokenizer.decode(one.tokens) for one, _ in meanings]
        calibration = self.settings.calibration
        evidence = weigh(best, rival, free, (texts[0], heard), blank, calibration.voice_in(sound_D.tolist()))
        judgement = calibration.judge(evidence)
        probabilities = share(judgement, [one.score for one, _ in meanings])
        alternatives = tuple(
            Alternative(text, meaning.intent, meaning.slots, probability)
            for text, (_, meaning), probability in zip(texts, meanings, probabilities, strict=True)
        )
        numbers = {"speech": judgement.speech, "command": judgement.command, "right": judgement.right}
        return Command(judgement.status, judgement.confidence, alternatives, heard, {**numbers, **asdict(evidence)})

    @staticmethod
    def is_close(meanings: Meanings, free: Hypothesis) -> bool:
        """Say whether the two best meanings are nearly as likely, and not much less so than what is heard freely."""
        best = [one for one, _ in meanings[:2]]
        if len(best) < 2 or free.log_probability - best[0].log_probability > UNLIKE:
            return False
        return best[0].score - best[1].score < DOUBT

    @staticmethod
    def mean(hearings: Sequence[dict[tuple[int, ...], Hypothesis]]) -> list[Hypothesis]:
        """Return the means of the texts that all hearings of an utterance have, best first."""
        texts = [text for text in hearings[0] if all(text in one for one in hearings)]
        return sorted((mean_hypothesis([one[text] for one in hearings]) for text in texts), key=lambda one: -one.score)
