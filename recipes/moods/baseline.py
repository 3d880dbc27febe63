"""What scikit-learn's logistic regression makes of simple features: the baseline that a network has to beat."""

from __future__ import annotations

import numpy as np
from data import RATE_HZ, People
from numpy.typing import NDArray


def heard(sound: NDArray[np.float32]) -> list[float]:
    """Describe a sound: length, level and its spread, crossings of zero, pitch by autocorrelation, bands."""
    pieces = sound[: len(sound) // 400 * 400].reshape(-1, 400)
    levels = np.log(np.square(pieces).mean(axis=1) + 1e-7)
    crossings = np.abs(np.diff(np.sign(pieces), axis=1)).mean(axis=1) / 2
    spectra = np.abs(np.fft.rfft(pieces * np.hanning(400), 1024)) ** 2
    lags = np.fft.irfft(spectra)[:, RATE_HZ // 400 : RATE_HZ // 70]
    pitches = np.log(RATE_HZ / (RATE_HZ // 400 + lags.argmax(axis=1)))
    bands = np.log(np.add.reduceat(spectra.mean(axis=0), [0, 32, 64, 128, 256]) + 1e-7)
    swings = np.abs(np.diff(levels)).mean()
    figures = [part.mean() for part in (levels, crossings, pitches)] + [levels.std(), crossings.std(), pitches.std()]
    return [len(sound) / RATE_HZ, swings, *figures, *bands]


def features(made: People) -> dict[str, NDArray[np.float64]]:
    """Describe people: the mean face in blocks of 2 x 2, how much it moves there, and what is `heard`."""
    videos = made.videos / 255.0
    moving = np.abs(np.diff(videos, axis=1)).mean(axis=1)
    blocks = [one.reshape(-1, 12, 2, 12, 2).mean(axis=(2, 4)).reshape(len(videos), -1) for one in
              (videos.mean(axis=1), moving)]  # fmt: skip
    return {"audio": np.array([heard(sound) for sound in made.sounds]), "video": np.concatenate(blocks, axis=1)}


def simple_f1(train: People, test: People) -> dict[str, float]:
    """Return macro F1 on the test split from the simple features of each modality, and of all together."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    words = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\w+")
    fitted, judged = features(train), features(test)
    fitted["text"] = words.fit_transform(train.texts).toarray()
    judged["text"] = words.transform(test.texts).toarray()
    found = {}
    for names in (("text",), ("audio",), ("video",), ("text", "audio", "video")):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.02, max_iter=300))
        model.fit(np.hstack([fitted[name] for name in names]), train.labels)
        predicted = model.predict(np.hstack([judged[name] for name in names]))
        found["+".join(names)] = round(float(f1_score(test.labels, predicted, average="macro")), 3)
    return found
