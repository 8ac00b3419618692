"""The main job on real input (`make demo`): a sentence encoder becomes one library, used from Python and from C.

Compiles paraphrase-MiniLM-L3 (ONNX, 17 M weights, from its package) for any batch up to 8 and any length up to 512,
encodes sentences from Python and from a C program, and compares results, size and speed with onnxruntime.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
from real_models import minilm_l3
from wordpiece import WordPiece

import nomul
from nomul.compare import difference, onnxruntime_of
from nomul.console import progress_bar, size_text, table
from nomul.timing import measure

BUILD = Path("build/demo")
C_SOURCE = Path(__file__).with_name("encode.c")
SENTENCES = [
    "The cat sleeps on the warm windowsill all afternoon.",
    "All afternoon a cat is dozing in the sun by the window.",
    "Interest rates were raised by a quarter of a percentage point.",
    "The central bank made borrowing slightly more expensive.",
    "How do I reset my password?",
    "I forgot my login, what should I do?",
    "Add two cups of flour and stir until the dough is smooth.",
    "The train to the coast leaves from platform nine.",
]
EMBEDDING = -1  # the model's last output: one vector of 384 numbers per sentence


def main() -> int:
    BUILD.mkdir(parents=True, exist_ok=True)
    source = minilm_l3()
    artifact, seconds = compile_model(source)
    ids, mask = WordPiece().batch(SENTENCES)
    reference = onnxruntime_of(source)
    assert reference is not None
    expected = np.asarray(reference([ids, mask])[EMBEDDING])
    from_python = artifact(input_ids=ids, attention_mask=mask)[EMBEDDING]
    from_c = run_c_program(artifact, ids, mask)
    print_neighbours(from_python)
    print_comparison(artifact, seconds, expected, from_python, from_c)
    print_latency(artifact, source)
    return 0


def compile_model(source: Path) -> tuple[nomul.Artifact, float]:
    """The artifact and the seconds that the compile took."""
    start = time.perf_counter()
    with progress_bar() as progress:
        artifact = nomul.compile(
            source,
            dims={"batch_size": (1, 8), "sequence_length": (1, 512)},
            output=BUILD / "sentence_encoder.so",
            progress=progress,
        )
    return artifact, time.perf_counter() - start


def run_c_program(artifact: nomul.Artifact, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Builds encode.c with the C compiler of pip's ziglang, and runs it on the same token numbers."""
    program = BUILD / "encode"
    zig = [sys.executable, "-m", "ziglang", "cc", "-O2", f"-I{BUILD.resolve()}", str(C_SOURCE), "-ldl"]
    subprocess.run([*zig, "-o", str(program)], check=True)
    ids.tofile(BUILD / "ids.bin")
    mask.tofile(BUILD / "mask.bin")
    files = [str(BUILD / name) for name in ("ids.bin", "mask.bin", "embeddings.bin")]
    command = [str(program.resolve()), str(artifact.path), *map(str, ids.shape), *files]
    subprocess.run(command, check=True)
    return np.fromfile(BUILD / "embeddings.bin", np.float32).reshape(len(ids), -1)


def print_neighbours(embeddings: np.ndarray) -> None:
    """For each sentence the one that means nearly the same, by cosine."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosine = unit @ unit.T - 2 * np.eye(len(unit))
    rows = [
        (f"{cosine[index].max():.2f}", sentence, SENTENCES[int(cosine[index].argmax())])
        for index, sentence in enumerate(SENTENCES)
    ]
    table("Nearest sentences", ("cosine", "sentence", "nearest"), rows)


def print_comparison(
    artifact: nomul.Artifact, seconds: float, expected: np.ndarray, from_python: np.ndarray, from_c: np.ndarray
) -> None:
    """Results and sizes beside onnxruntime's."""
    apart = difference(expected, from_python)
    same = "bit-identical" if np.array_equal(from_python, from_c) else f"{difference(from_python, from_c).relative:.1e}"
    weights = artifact.facts["weights"]["bytes"]
    library = artifact.path.stat().st_size
    runtime = next((Path(onnxruntime.__file__).parent / "capi").glob("onnxruntime_pybind*")).stat().st_size
    rows = [
        ("difference from onnxruntime, relative to the largest output", f"{apart.relative:.1e}"),
        ("C program against Python", same),
        ("one library: code + weights", f"{size_text(library - weights)} + {size_text(weights)}"),
        ("onnxruntime's library, without the model", size_text(runtime)),
        ("compile time", f"{seconds:.1f} s"),
        ("levels in the library; used here", f"{', '.join(artifact.levels)}; {artifact.level}"),
    ]
    print()
    table("Comparison", ("", "nomul"), rows)


def print_latency(artifact: nomul.Artifact, source: Path) -> None:
    """Medians of interleaved runs, one sentence of 128 tokens."""
    ids = np.random.default_rng(0).integers(1000, 30000, (1, 128))
    mask = np.ones_like(ids)
    rows = []
    for threads in (1, 2):
        reference = onnxruntime_of(source, threads)
        assert reference is not None
        jobs = {
            "nomul": lambda threads=threads: artifact(ids, mask, threads=threads),
            "onnxruntime": lambda reference=reference: reference([ids, mask]),
        }
        times = {name: latency.p50 for name, latency in measure(jobs, seconds=3.0).items()}
        ratio = times["nomul"] / times["onnxruntime"]
        rows.append((threads, f"{times['nomul']:.2f}", f"{times['onnxruntime']:.2f}", f"{ratio:.2f}"))
    print()
    table("Latency of one text of 128 tokens", ("threads", "nomul ms", "onnxruntime ms", "ratio"), rows)


if __name__ == "__main__":
    sys.exit(main())
