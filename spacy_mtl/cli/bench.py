"""`spacy mtl bench`: how fast a pipeline is, and where its time goes."""

import sys
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import spacy
import srsly
from spacy.cli._util import import_code, setup_gpu, walk_directory
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab
from thinc.api import CupyOps, Model, get_current_ops
from typer import Argument, Option
from wasabi import msg

from ..errors import Errors
from . import command


@dataclass
class ComponentSpeed:
    """A component's share of the time of all, words per second of its own time, and for
    mtl_transformer the share of padding in the wordpieces that it reads.
    """

    share: float
    words_per_second: float
    padding: float | None


@dataclass
class BenchResult:
    """Words per second of the whole pipeline (median, least and most of the passes), each
    component's, the process's peak of memory in 10^6 bytes (of a GPU, torch's part; `None` where it
    is not known), and what was measured: `runtimes` has for each encoder "eager" or "cpu", and then
    the kernels that this CPU uses.
    """

    words_per_second: float
    slowest: float
    fastest: float
    components: dict[str, ComponentSpeed]
    peak_mb: float | None
    peak_gpu_mb: float | None
    docs: int
    words: int
    batch_size: int
    repeats: int
    threads: int
    runtimes: dict[str, list[str]]
    versions: dict[str, str]


@command("bench", "Cannot measure")
def bench_cli(
    pipeline: Annotated[str, Argument(help="Name or folder of the pipeline")],
    data: Annotated[Path, Argument(help="A .spacy file, or a folder of them")],
    output: Annotated[Path | None, Option("--output", "-o", help="JSON file to write")] = None,
    repeats: Annotated[int, Option("--repeats", "-r", min=1, help="Passes to time")] = 5,
    batch_size: Annotated[int | None, Option(min=1, help="Default: the pipeline's")] = None,
    limit: Annotated[int | None, Option(min=1, help="Docs to read; default: all")] = None,
    code_path: Annotated[
        Path | None, Option("--code", "-c", help="Python file with registered functions to import")
    ] = None,
    gpu_id: Annotated[int, Option("--gpu-id", "-g", help="GPU ID or -1 for CPU")] = -1,
    threads: Annotated[int | None, Option(min=1, help="Threads of torch on the CPU")] = None,
) -> None:
    """
    Measure how fast a pipeline is, and where its time goes.

    Prints words per second of the whole pipeline and of each component, how much of what the
    encoder reads is padding, and the peak of memory. Annotations of the data are not used.
    """
    import torch

    import_code(code_path)
    setup_gpu(gpu_id, silent=False)
    if threads is not None:
        torch.set_num_threads(threads)
    nlp = load_pipeline(pipeline)
    docs = read_docs(data, nlp.vocab, limit)
    result = bench(nlp, docs, repeats=repeats, batch_size=batch_size)
    print_result(result)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        srsly.write_json(output, asdict(result))


def load_pipeline(name: str) -> Language:
    """RETURNS (Language): The pipeline of a name or folder. RAISES (ValueError): M204."""
    try:
        return spacy.load(name)
    except Exception as error:
        raise ValueError(Errors.M204.format(name=name, error=error)) from error


def read_docs(path: Path, vocab: Vocab, limit: int | None = None) -> list[Doc]:
    """RETURNS (List[Doc]): At most `limit` docs of a .spacy file, or of all in a folder.
    RAISES (ValueError): M205 if a file cannot be read, M206 if there is no word.
    """
    try:
        bins = (DocBin().from_disk(file) for file in walk_directory(path, ".spacy"))
        docs = list(islice(chain.from_iterable(b.get_docs(vocab) for b in bins), limit))
    except Exception as error:
        raise ValueError(Errors.M205.format(path=path, error=error)) from error
    if not any(map(len, docs)):
        raise ValueError(Errors.M206.format(path=path, docs=len(docs)))
    return docs


def bench(
    nlp: Language, docs: Sequence[Doc], *, repeats: int = 5, batch_size: int | None = None
) -> BenchResult:
    """Measure how fast a pipeline is, and where its time goes.

    After a pass to warm up, each repeat is a pass through `nlp.pipe` as it is, and another with
    clocks between the components. Every pass has new docs, with words and spaces only.

    nlp (Language): The pipeline.
    docs (Sequence[Doc]): What to read.
    repeats (int): How many times.
    batch_size (Optional[int]): For `nlp.pipe`, by default the pipeline's.
    RETURNS (BenchResult): The medians over the repeats.
    """
    import torch

    from ..encoder.pipe import SharedEncoder

    batch_size = batch_size or nlp.batch_size
    texts = [([t.text for t in doc], [bool(t.whitespace_) for t in doc]) for doc in docs]
    n_words = sum(map(len, docs))

    def make_docs() -> Iterator[Doc]:
        fresh = deque(Doc(nlp.vocab, words=words, spaces=spaces) for words, spaces in texts)
        # What components leave on docs would add up if the docs were kept.
        return (fresh.popleft() for _ in texts)

    time_pipeline(nlp, make_docs(), batch_size)
    passes, clocks = [], []
    for _ in range(repeats):
        passes.append(time_pipeline(nlp, make_docs(), batch_size))
        clocks.append(time_components(nlp, make_docs(), batch_size))
    times = {name: median(clock[name] for clock in clocks) for name in nlp.pipe_names}
    padding = {
        name: get_padding(nlp, name, make_docs(), batch_size)
        for name, pipe in nlp.pipeline
        if isinstance(pipe, SharedEncoder)
    }
    return BenchResult(
        words_per_second=n_words / median(passes),
        slowest=n_words / max(passes),
        fastest=n_words / min(passes),
        components={
            name: ComponentSpeed(time / sum(times.values()), n_words / time, padding.get(name))
            for name, time in times.items()
        },
        peak_mb=get_peak_mb(),
        peak_gpu_mb=torch.cuda.max_memory_allocated() / 1e6 if is_on_gpu() else None,
        docs=len(docs),
        words=n_words,
        batch_size=batch_size,
        repeats=repeats,
        threads=torch.get_num_threads(),
        runtimes=get_runtimes(nlp),
        versions={name: version(name) for name in ("spacy", "spacy-mtl", "torch")},
    )


def time_pipeline(nlp: Language, docs: Iterable[Doc], batch_size: int) -> float:
    """RETURNS (float): The seconds of a pass through the pipeline."""
    start = get_time()
    deque(nlp.pipe(docs, batch_size=batch_size), maxlen=0)
    return get_time() - start


def time_components(nlp: Language, docs: Iterable[Doc], batch_size: int) -> dict[str, float]:
    """RETURNS (Dict[str, float]): The seconds that each component works in a pass, without those
    that it waits for the components before it.
    """
    seconds: dict[str, float] = defaultdict(float)
    worker, since = "", get_time()  # of a chain of generators, only one works at a time

    def switch(to: str) -> None:
        nonlocal worker, since
        now = get_time()
        seconds[worker] += now - since
        worker, since = to, now

    def watch(stream: Iterable[Doc], name: str) -> Iterator[Doc]:
        asking = worker
        switch(name)
        for doc in stream:
            switch(asking)
            yield doc
            switch(name)
        switch(asking)

    for name in nlp.pipe_names:
        others = [other for other in nlp.pipe_names if other != name]
        docs = watch(nlp.pipe(docs, batch_size=batch_size, disable=others), name)
    deque(docs, maxlen=0)
    return seconds


def get_padding(nlp: Language, name: str, docs: Iterable[Doc], batch_size: int) -> float:
    """RETURNS (float): How much of the wordpieces that the encoder `name` reads is padding, when
    the components before it have read the docs. What fills a packed pass, up to 32 wordpieces, is
    left out.
    """
    from ..encoder.model import get_batches
    from ..encoder.pipe import buffer

    encoder: Any = nlp.get_pipe(name)
    model = encoder.model
    n_special = sum(map(len, model.special_ids))
    text, total = 0, 0
    behind = nlp.pipe_names[nlp.pipe_names.index(name) :]
    stream = nlp.pipe(docs, batch_size=batch_size, disable=behind)
    for batch in buffer(stream, batch_size, encoder.buffer_size):
        pieces = model.get_wordpieces(batch)
        text += int((pieces.lengths + n_special).sum())
        total += sum(len(group) * length for group, length in get_batches(model, pieces))
    return (total - text) / max(total, 1)


def get_runtimes(nlp: Language) -> dict[str, list[str]]:
    """RETURNS (Dict[str, List[str]]): For each component with an encoder of its own its runtime,
    and the kernels for a CPU that it uses.
    """
    from ..encoder.cpu import get_choice
    from ..encoder.model import SharedTransformer, has_kernels

    used = ["cpu", *(name for name, is_used in asdict(get_choice()).items() if is_used)]
    models = {name: getattr(pipe, "model", None) for name, pipe in nlp.pipeline}
    return {
        name: used if has_kernels(node) else ["eager"]
        for name, model in models.items()
        if isinstance(model, Model)
        for node in model.walk()
        if isinstance(node, SharedTransformer)
    }


def is_on_gpu() -> bool:
    return isinstance(get_current_ops(), CupyOps)


def get_time() -> float:
    """RETURNS (float): The time in seconds when the GPU, if there is one, has done its work."""
    if is_on_gpu():
        import torch

        torch.cuda.synchronize()
    return perf_counter()


def get_peak_mb() -> float | None:
    """RETURNS (Optional[float]): The process's peak of memory; `None` on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def print_result(result: BenchResult) -> None:
    """Print a table of the components, and one of the whole pipeline."""
    rows = []
    for name, speed in result.components.items():
        padding = "-" if speed.padding is None else f"{speed.padding:.1%}"
        rows.append((name, f"{speed.share:.1%}", f"{speed.words_per_second:,.0f}", padding))
    header = ("Component", "Share", "Words/s", "Padding")
    msg.table(rows, header=header, aligns=("l", "r", "r", "r"), divider=True)
    passes = f"{result.slowest:,.0f} to {result.fastest:,.0f} in {result.repeats} passes"
    peaks = {"Peak memory": result.peak_mb, "Peak GPU memory": result.peak_gpu_mb}
    msg.table(
        {
            "Words/s": f"{result.words_per_second:,.0f} ({passes})",
            **{name: f"{peak:,.0f} MB" for name, peak in peaks.items() if peak is not None},
            "Data": f"{result.docs:,} docs, {result.words:,} words, batch_size {result.batch_size}",
            "Versions": ", ".join(f"{name} {number}" for name, number in result.versions.items()),
            "Threads": str(result.threads),
            **{f"Runtime of {name}": ", ".join(used) for name, used in result.runtimes.items()},
        }
    )
