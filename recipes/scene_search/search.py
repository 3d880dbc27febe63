"""Index a gallery of 10,000 scenes with the served image tower, and search it with the served text tower.

    mmdeploy serve model_repository/scene_search                     # in another terminal
    python recipes/scene_search/search.py index                      # writes gallery.npz beside this file
    python recipes/scene_search/search.py measure                    # recall of the 1000 test captions in it
    python recipes/scene_search/search.py ask "a red heart above a blue star in white snow"

``gallery.npz`` holds ``embeddings`` [10000, 128] and ``labels``, a caption each, as the step ``nearest`` reads them. In
the gallery are the 1000 scenes of the test split and 9000 others, each rendered once. Scenes that differ in one word
are near-duplicates: one colour, one shape, the ground, or above for left.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from data import captions, described, gallery, parts, rendered, split
from numpy.typing import NDArray

from mmdeploy.triton.client import GrpcRunner

INDEX = Path(__file__).with_name("gallery.npz")
BATCH = 32


def embedded_images(url: str, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Ask the served image tower: [N, 48, 48, 3] to [N, 128]."""
    tower = GrpcRunner(url, "scene_search.image_tower")
    found = [tower.infer({"pixels": images[start : start + BATCH]}) for start in range(0, len(images), BATCH)]
    tower.close()
    return np.concatenate([one["embedding"] for one in found])


def embedded_texts(url: str, texts: list[str]) -> NDArray[np.float32]:
    """Ask the served tokenizer, then the served text tower: [N, 128]."""
    reader, tower = GrpcRunner(url, "scene_search.read"), GrpcRunner(url, "scene_search.text_tower")
    found = []
    for start in range(0, len(texts), BATCH):
        strings = np.array([[text.encode()] for text in texts[start : start + BATCH]], dtype=object)
        read = reader.infer({"text": strings})
        found.append(tower.infer({"ids": read["ids"], "mask": read["mask"]})["embedding"])
    reader.close()
    tower.close()
    return np.concatenate(found)


def index(url: str) -> None:
    """Write the gallery."""
    scenes = gallery()
    labels = [described(int(scene), 0) for scene in scenes]
    np.savez(INDEX, embeddings=embedded_images(url, rendered(scenes, seed=5)), labels=np.array(labels))
    print(f"{INDEX.name}: {len(scenes)} scenes, {INDEX.stat().st_size / 1e6:.1f} MB")


def differences(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the words in which scenes differ: of each object colour and shape, relation, ground."""
    found = np.zeros(np.broadcast_shapes(one.shape, other.shape), dtype=np.int64)
    for number, (this, that) in enumerate(zip(parts(one), parts(other), strict=True)):
        pairs = [(this % 8, that % 8), (this // 8, that // 8)] if number < 2 else [(this, that)]
        for left, right in pairs:
            found += left != right
    return found


def words(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what scenes are made of, whatever belongs to which object: [N, 6]."""
    first, second, relation, ground = parts(numbers)
    pairs = [
        np.sort(np.stack([part(first), part(second)], axis=1), axis=1) for part in (lambda n: n % 8, lambda n: n // 8)
    ]
    return np.concatenate([*pairs, relation[:, None], ground[:, None]], axis=1)


def measure(url: str) -> None:
    """Print how many of the test captions find their scene, and what stands in front of it where they do not."""
    with np.load(INDEX) as kept:
        rows = kept["embeddings"]
    scenes, asked = gallery(), embedded_texts(url, captions(split("test"), seed=4))
    scores = asked @ rows.T
    rank = (scores > scores[np.arange(len(asked)), np.arange(len(asked))][:, None]).sum(axis=1)
    print("  ".join(f"R@{k} {100 * np.mean(rank < k):.1f} %" for k in (1, 5, 10)), f"of {len(scenes)} scenes")
    alike = np.mean([(differences(scene, scenes) == 1).sum() for scene in split("test")])
    wrong = np.flatnonzero(rank > 0)
    first = scenes[scores[wrong].argmax(axis=1)]
    print(f"{alike:.1f} near-duplicates of a scene lie in the gallery; of {len(wrong)} scenes not found first,")
    print(f"{100 * np.mean(differences(scenes[wrong], first) == 1):.0f} % had one of them in front, and")
    print(f"{100 * np.mean((words(scenes[wrong]) == words(first)).all(axis=1)):.0f} % one of the same words, swapped")


def ask(url: str, text: str) -> None:
    """Print the five scenes nearest to a text."""
    with np.load(INDEX) as kept:
        scores = embedded_texts(url, [text])[0] @ kept["embeddings"].T
        for row in (-scores).argsort()[:5]:
            print(f"{scores[row]:.3f}  {row:5d}  {kept['labels'][row]}")


def main() -> None:
    """Index, measure or ask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="localhost:8001", help="gRPC of the server")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("index")
    verbs.add_parser("measure")
    verbs.add_parser("ask").add_argument("text")
    given = parser.parse_args()
    if given.verb == "index":
        index(given.url)
    elif given.verb == "measure":
        measure(given.url)
    else:
        ask(given.url, given.text)


if __name__ == "__main__":
    main()
