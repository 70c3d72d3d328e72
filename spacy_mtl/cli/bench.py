"""`spacy mtl bench`: how fast a pipeline is, and which component takes the time."""

import sys
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from statistics import median
from time import perf_counter
from typing import Annotated

from spacy.language import Language
from spacy.tokens import Doc
from spacy.ty import TrainableComponent
from thinc.api import CupyOps, Model, get_current_ops
from typer import Option
from wasabi import msg

from ..loading import load_pipeline, read_docs
from .app import command
from .options import CodePath, Data, GpuId, JsonOutput, Pipeline, prepare, write_json


@dataclass
class ComponentSpeed:
    """The speed of one component.

    share (float): Its share of the time of all components, 0 to 1.
    words_per_second (float): Words per second of its own time.
    padding (Optional[float]): Share of padding in the wordpieces that it encodes, 0 to 1; None if
        it is no mtl_transformer.
    """

    share: float
    words_per_second: float
    padding: float | None


@dataclass
class BenchResult:
    """The speed of a pipeline, and the conditions of the measurement.

    words_per_second (float): Median over the passes of the whole pipeline.
    slowest, fastest (float): Words per second of the slowest and the fastest pass.
    components (Dict[str, ComponentSpeed]): The speed of each component.
    peak_mb (Optional[float]): Peak memory of the process in 10^6 bytes; None on Windows.
    peak_gpu_mb (Optional[float]): Peak GPU memory of torch in 10^6 bytes; None on a CPU.
    docs, words (int): Size of the data.
    batch_size (int): Batch size of `nlp.pipe`.
    repeats (int): Timed passes.
    threads (int): Threads of torch.
    runtimes (Dict[str, List[str]]): For each encoder "eager" or "cpu", followed by the kernels in
        use on this CPU.
    versions (Dict[str, str]): Versions of spaCy, spacy-mtl and torch.
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
    pipeline: Pipeline,
    data: Data,
    output: JsonOutput = None,
    repeats: Annotated[int, Option("--repeats", "-r", min=1, help="Timed passes")] = 5,
    batch_size: Annotated[
        int | None, Option(min=1, help="Docs in a batch; by default as in the pipeline's config")
    ] = None,
    limit: Annotated[int | None, Option(min=1, help="Most docs to read; by default all")] = None,
    code_path: CodePath = None,
    gpu_id: GpuId = -1,
    threads: Annotated[int | None, Option(min=1, help="Threads of torch on the CPU")] = None,
) -> None:
    """
    Measure the speed of a pipeline and its components.

    Prints words per second of the pipeline and of each component, the share of padding in what the
    encoder reads, the peak memory, and the runtime of each encoder. Annotations of the data are
    not used.

    Example: python -m spacy mtl bench training/model-best dev.spacy
    """
    import torch

    prepare(code_path, gpu_id)
    if threads is not None:
        torch.set_num_threads(threads)
    nlp = load_pipeline(pipeline)
    docs = read_docs(data, nlp.vocab, limit)
    result = bench(nlp, docs, repeats=repeats, batch_size=batch_size)
    print_result(result)
    write_json(output, asdict(result))


def bench(
    nlp: Language, docs: Sequence[Doc], *, repeats: int = 5, batch_size: int | None = None
) -> BenchResult:
    """Measure how fast a pipeline is, and which component takes the time.

    After one pass to warm up, each repeat times a pass through `nlp.pipe`, and then a pass with
    clocks between the components. Every pass gets new docs with words and spaces only.

    nlp (Language): The pipeline.
    docs (Sequence[Doc]): The docs to copy the words and spaces from.
    repeats (int): How many passes to time.
    batch_size (Optional[int]): Batch size of `nlp.pipe`; the pipeline's own if not given.
    RETURNS (BenchResult): The medians over the repeats.
    """
    import torch

    from ..encoder.pipe import SharedEncoder

    batch_size = batch_size or nlp.batch_size
    texts = [([t.text for t in doc], [bool(t.whitespace_) for t in doc]) for doc in docs]
    n_words = sum(map(len, docs))

    def make_docs() -> Iterator[Doc]:
        fresh = deque(Doc(nlp.vocab, words=words, spaces=spaces) for words, spaces in texts)
        # Popped, not iterated: a doc and the features on it are freed after the pass.
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
    """RETURNS (float): Seconds of one pass through the pipeline."""
    start = get_time()
    deque(nlp.pipe(docs, batch_size=batch_size), maxlen=0)
    return get_time() - start


def time_components(nlp: Language, docs: Iterable[Doc], batch_size: int) -> dict[str, float]:
    """RETURNS (Dict[str, float]): Seconds that each component works in one pass. The time that it
    waits for earlier components is theirs.
    """
    seconds: dict[str, float] = defaultdict(float)
    worker, since = "", get_time()  # only one generator of the chain works at a time

    def switch(to: str) -> None:
        nonlocal worker, since
        now = get_time()
        seconds[worker] += now - since
        worker, since = to, now

    def clock(stream: Iterable[Doc], name: str) -> Iterator[Doc]:
        consumer = worker
        switch(name)
        for doc in stream:
            switch(consumer)
            yield doc
            switch(name)
        switch(consumer)

    for name in nlp.pipe_names:
        others = [other for other in nlp.pipe_names if other != name]
        docs = clock(nlp.pipe(docs, batch_size=batch_size, disable=others), name)
    deque(docs, maxlen=0)
    return seconds


def get_padding(nlp: Language, name: str, docs: Iterable[Doc], batch_size: int) -> float:
    """Compute how much of the input of an encoder is padding.

    nlp (Language): The pipeline. The components before the encoder annotate the docs.
    name (str): The mtl_transformer.
    docs (Iterable[Doc]): The docs.
    batch_size (int): Batch size of `nlp.pipe`.
    RETURNS (float): Padding divided by all wordpieces. The filling of packed passes, up to 32
        wordpieces each, is not counted.
    """
    from ..encoder.model.batches import get_batches
    from ..encoder.pipe import SharedEncoder, buffer

    encoder: object = nlp.get_pipe(name)
    assert isinstance(encoder, SharedEncoder)
    model = encoder.model
    n_special = sum(map(len, model.special_ids))
    text, total = 0, 0
    later = nlp.pipe_names[nlp.pipe_names.index(name) :]
    stream = nlp.pipe(docs, batch_size=batch_size, disable=later)
    for batch in buffer(stream, batch_size, encoder.buffer_size):
        pieces = model.get_wordpieces(batch)
        text += int((pieces.lengths + n_special).sum())
        total += sum(len(group) * length for group, length in get_batches(model, pieces))
    return (total - text) / max(total, 1)


def get_runtimes(nlp: Language) -> dict[str, list[str]]:
    """RETURNS (Dict[str, List[str]]): For each component with an encoder in its model: "eager", or
    "cpu" and the kernels in use.
    """
    from ..encoder.model.transformer import SharedTransformer
    from ..encoder.runtime.choice import CPU
    from ..encoder.runtime.cpu.capability import get_choice

    used = ["cpu", *(name for name, is_used in asdict(get_choice()).items() if is_used)]
    pipes: list[tuple[str, object]] = [*nlp.pipeline]
    return {
        name: used if node.runtime is CPU else ["eager"]
        for name, pipe in pipes
        if isinstance(pipe, TrainableComponent) and isinstance(pipe.model, Model)
        for node in pipe.model.walk()
        if isinstance(node, SharedTransformer)
    }


def is_on_gpu() -> bool:
    return isinstance(get_current_ops(), CupyOps)


def get_time() -> float:
    """RETURNS (float): The time in seconds, once a GPU in use has finished its work."""
    if is_on_gpu():
        import torch

        torch.cuda.synchronize()
    return perf_counter()


def get_peak_mb() -> float | None:
    """RETURNS (Optional[float]): Peak memory of the process in 10^6 bytes; None on Windows."""
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
