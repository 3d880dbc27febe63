"""Metrics of generated text: word error rate, BLEU, ROUGE.

An output is token ids [samples, length], or scores [samples, length, vocabulary], whose best token is taken at each
place; lengths may differ from sample to sample. `Decoding` says which ids are no text. References are token ids too
(padded to one length, or arrays of varying length), and tokens are compared; or strings (BLEU and ROUGE: several a
sample, in a list), and words are compared, made of the ids by a vocabulary file. Other tokenizers belong into a metric
of one's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TypeAlias

from mmdeploy.core.artifact import Array
from mmdeploy.core.errors import DataError, MetricError
from mmdeploy.core.labels import Labels, Ragged, Texts, kind, plain
from mmdeploy.core.samples import is_ragged
from mmdeploy.scoring.arguments import Decoding
from mmdeploy.scoring.metrics import FloatArray
from mmdeploy.scoring.scored import Scored, mean_of, tallied

Tokens: TypeAlias = Sequence[Hashable]
Pairs: TypeAlias = "list[tuple[Tokens, list[Tokens]]]"


def word_error_rate(outputs: Array, labels: Labels, decoding: Decoding, root: Path) -> Scored:
    """Score insertions, deletions and substitutions of all samples over the number of words in all references."""
    import numpy as np

    pairs = _pairs("wer", outputs, labels, decoding, root)
    tallies = np.array([(edits(answer, _only(references)), len(_only(references))) for answer, references in pairs])
    if not tallies[:, 1].any():
        raise DataError("wer: every reference is empty")
    return tallied(tallies.astype(np.float64), lambda sums: sums[:, 0] / np.maximum(sums[:, 1], 1.0))


def bleu(outputs: Array, labels: Labels, decoding: Decoding, root: Path, longest: int) -> Scored:
    """Score BLEU over all samples, without smoothing (Papineni et al., ACL 2002).

    Args:
        outputs: As of the module.
        labels: As of the module.
        decoding: How ids become text.
        root: Folder of the recipe.
        longest: Longest n-gram.
    """
    import numpy as np

    pairs = _pairs("bleu", outputs, labels, decoding, root)
    tallies = np.array([_bleu_tallies(answer, references, longest) for answer, references in pairs], dtype=np.float64)

    def finish(sums: FloatArray) -> FloatArray:
        matched, possible = sums[:, :longest], sums[:, longest : 2 * longest]
        ours, theirs = sums[:, -2], sums[:, -1]
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.exp(np.log(matched / possible).mean(axis=1))
            brevity = np.exp(np.minimum(0.0, 1.0 - theirs / ours))
        return np.asarray(np.where((matched > 0).all(axis=1), precision * brevity, 0.0))

    return tallied(tallies, finish)


def rouge(outputs: Array, labels: Labels, decoding: Decoding, root: Path, form: str) -> Scored:
    """Score the mean F1 of ROUGE-1, ROUGE-2 or ROUGE-L (Lin, 2004); of several references the best counts."""
    import numpy as np

    score: Callable[[Tokens, Tokens], float] = {
        "rouge1": lambda ours, theirs: _overlap(ours, theirs, 1),
        "rouge2": lambda ours, theirs: _overlap(ours, theirs, 2),
        "rougeL": lambda ours, theirs: _f1(_longest_common(ours, theirs), len(ours), len(theirs)),
    }[form]
    pairs = _pairs("rouge", outputs, labels, decoding, root)
    return mean_of(np.array([max(score(ours, one) for one in references) for ours, references in pairs]))


def edits(ours: Tokens, theirs: Tokens) -> int:
    """Return the fewest insertions, deletions and substitutions that turn one into the other (Levenshtein)."""
    before = list(range(len(theirs) + 1))
    for row, token in enumerate(ours, 1):
        now = [row]
        for column, other in enumerate(theirs, 1):
            now.append(min(before[column] + 1, now[-1] + 1, before[column - 1] + (token != other)))
        before = now
    return before[-1]


def _longest_common(ours: Tokens, theirs: Tokens) -> int:
    """Return the length of the longest common subsequence."""
    before = [0] * (len(theirs) + 1)
    for token in ours:
        now = [0]
        for column, other in enumerate(theirs, 1):
            now.append(before[column - 1] + 1 if token == other else max(before[column], now[-1]))
        before = now
    return before[-1]


def _bleu_tallies(ours: Tokens, references: list[Tokens], longest: int) -> list[int]:
    matched, possible = [], []
    for length in range(1, longest + 1):
        found, most = _grams(ours, length), Counter[tuple[Hashable, ...]]()
        for one in references:
            most |= _grams(one, length)
        matched.append((found & most).total())
        possible.append(found.total())
    closest = min((abs(len(one) - len(ours)), len(one)) for one in references)[1]
    return [*matched, *possible, len(ours), closest]


def _overlap(ours: Tokens, theirs: Tokens, length: int) -> float:
    found, wanted = _grams(ours, length), _grams(theirs, length)
    return _f1((found & wanted).total(), found.total(), wanted.total())


def _f1(hits: int, ours: int, theirs: int) -> float:
    return 2.0 * hits / (ours + theirs) if hits else 0.0


def _grams(tokens: Tokens, length: int) -> Counter[tuple[Hashable, ...]]:
    return Counter(tuple(tokens[at : at + length]) for at in range(len(tokens) - length + 1))


def _only(references: list[Tokens]) -> Tokens:
    if len(references) != 1:
        raise DataError(f"wer takes one reference a sample, found {len(references)}")
    return references[0]


def _pairs(metric: str, outputs: Array, labels: Labels, decoding: Decoding, root: Path) -> Pairs:
    """Return what was said and what should have been, a pair a sample."""
    import numpy as np

    answers = [decoded(ids, decoding, answer=True) for ids in _ids(metric, outputs)]
    if isinstance(labels, Texts) or (isinstance(labels, Ragged) and isinstance(labels.values, Texts)):
        vocabulary = _vocabulary(metric, decoding, root)
        said = [_text(ids, vocabulary, decoding.joined_by, metric).split() for ids in answers]
        wanted = [[one] if isinstance(one, str) else list(map(str, one)) for one in labels]
        if () in map(tuple, wanted):
            raise DataError(f"{metric}: sample {list(map(tuple, wanted)).index(())} has no reference")
        return [(ours, [one.split() for one in texts]) for ours, texts in zip(said, wanted, strict=True)]
    is_ids = isinstance(labels, Ragged) or (isinstance(labels, np.ndarray) and labels.ndim == 2)
    values = labels.values if isinstance(labels, Ragged) else labels
    if not is_ids or not isinstance(values, np.ndarray) or values.dtype.kind not in "iu":
        raise DataError(
            f"{metric} takes references as token ids or strings, found {kind(labels)}",
            hint="give each sample's label as an array of integers, or as a string with `vocabulary` in arguments",
        )
    return [(ours, [decoded(np.asarray(one), decoding)]) for ours, one in zip(answers, plain(labels), strict=True)]


def _ids(metric: str, outputs: Array) -> Sequence[Array]:
    """Return the token ids of each sample, which may differ in length."""
    import numpy as np

    if is_ragged(outputs):
        return [_ids(metric, one[None])[0] for one in outputs]
    if outputs.ndim == 3 and outputs.dtype.kind == "f":
        return list(np.asarray(outputs.argmax(axis=-1)))
    if outputs.ndim != 2 or outputs.dtype.kind not in "iu":
        raise DataError(
            f"{metric} takes token ids [samples, length] or scores [samples, length, vocabulary], found "
            f"{list(outputs.shape)} of type {outputs.dtype}"
        )
    return list(outputs)


def decoded(ids: Array, decoding: Decoding, *, answer: bool = False) -> list[int]:
    """Return the ids that are text: up to the end, without padding; an answer with its CTC blanks resolved."""
    found: list[int] = []
    previous: int | None = None
    for one in ids.tolist():
        if one == decoding.end:
            break
        repeated = answer and decoding.blank is not None and one == previous
        previous = one
        if not repeated and one != decoding.pad and one != decoding.blank and one not in decoding.ignore:
            found.append(one)
    return found


def _vocabulary(metric: str, decoding: Decoding, root: Path) -> list[str]:
    if decoding.vocabulary is None:
        raise DataError(
            f"{metric}: the references are strings, the model's answers token ids",
            hint="name a file with one token a line: `arguments: {vocabulary: vocabulary.txt}`; or give ids as labels",
        )
    try:
        return (root / decoding.vocabulary).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MetricError(f"{metric}: the vocabulary {decoding.vocabulary} cannot be read: {error}") from error


def _text(ids: Sequence[int], vocabulary: Sequence[str], joined_by: str, metric: str) -> str:
    unknown = next((one for one in ids if not 0 <= one < len(vocabulary)), None)
    if unknown is not None:
        raise DataError(f"{metric}: the answer holds token {unknown}, the vocabulary has {len(vocabulary)} tokens")
    return joined_by.join(vocabulary[one] for one in ids)
