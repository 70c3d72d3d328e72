"""`spacy mtl doctor`: find what is wrong or missing in this installation."""

import platform
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

from wasabi import msg

from ..extras import (
    NAME,
    find_missing,
    get_extras,
    get_install_line,
    get_requirements,
    is_installed,
)
from .app import command

PACKAGES = (NAME, "spacy", "thinc", "torch", "transformers", "spacy-transformers", "numpy")
PURPOSES = {
    "minilm": "the embedded English encoder",
    "report": "the page of `spacy mtl report --html`",
    "balancing": "balancers that compare gradients",
    "lora": "adapters in place of the encoder's weights in training",
    "demo": "the workflow `demo`, and wheels of pipelines",
}


@dataclass
class Advice:
    """A line of the doctor.

    text (str): What was found.
    fix (str): The command that changes it, "" if nothing has to be done.
    is_broken (bool): Whether something does not work.
    """

    text: str
    fix: str = ""
    is_broken: bool = False


@command("doctor", "Cannot examine the installation")
def doctor_cli() -> None:
    """
    Check this installation: find faults and missing parts.

    Prints the commands that fix it. Shows versions, the GPU, the precision and kernels that this
    machine gets, threads, and extras that are not installed. The exit code is 1 if something is
    broken.

    Example: python -m spacy mtl doctor
    """
    found: list[Advice] = []
    for title, examine in SECTIONS.items():
        msg.divider(title)
        for advice in examine():
            found.append(advice)
            if advice.is_broken:
                msg.fail(advice.text, advice.fix)
            elif advice.fix:
                msg.warn(advice.text, advice.fix)
            else:
                msg.good(advice.text)
    if n := sum(advice.is_broken for advice in found):
        msg.fail(f"Broken: {n}", exits=1)
    msg.good("Nothing is broken")


def check_versions() -> list[Advice]:
    """RETURNS (List[Advice]): The versions of Python and packages, and requirements not met."""
    found = [Advice(f"Python {platform.python_version()}, {sys.executable}")]
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # one of the requirements below
            found.append(Advice(f"{name} {version(name)}"))
    for requirement in get_requirements(NAME):
        if not is_installed(requirement):
            text = f"Not installed, or in another version: {requirement}"
            found.append(Advice(text, f'pip install "{requirement}"', is_broken=True))
    return found


def check_gpu() -> list[Advice]:
    """RETURNS (List[Advice]): The GPU that torch and CuPy see."""
    import torch

    driver = shutil.which("nvidia-smi") is not None
    cuda = torch.version.cuda
    if not torch.cuda.is_available():
        if not driver:
            return [Advice("No GPU: everything runs on the CPU")]
        fix = "pip install --force-reinstall torch  # a build with CUDA: see pytorch.org"
        reason = f"built for CUDA {cuda}" if cuda else "built without CUDA"
        return [Advice(f"There is a GPU, but torch does not see it. It is {reason}", fix, True)]
    names = ", ".join(
        torch.cuda.get_device_name(i) or "GPU" for i in range(torch.cuda.device_count())
    )
    return [Advice(f"torch sees {names}, CUDA {cuda}"), check_cupy(cuda)]


def check_cupy(cuda: str | None) -> Advice:
    """RETURNS (Advice): Whether CuPy, which spaCy needs on a GPU, fits the CUDA of torch.

    cuda (Optional[str]): The CUDA version of torch, such as "12.8".
    """
    major = (cuda or "12").partition(".")[0]
    # spaCy's extras have cupy < 13, which needs numpy < 1.29.
    fix = f'pip install "cupy-cuda{major}x>=13"'
    try:
        import cupy

        runtime = cupy.cuda.runtime.runtimeGetVersion() // 1000
        n_devices = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # a broken installation can raise anything
        return Advice(f"CuPy does not work: {error}", fix, is_broken=True)
    if not n_devices or str(runtime) != major:
        text = f"CuPy {cupy.__version__} is for CUDA {runtime}, and torch for CUDA {cuda}"
        return Advice(text, f"pip uninstall cupy-cuda{runtime}x && {fix}", is_broken=True)
    return Advice(f"CuPy {cupy.__version__} sees the GPU, CUDA {runtime}")


def check_speed() -> list[Advice]:
    """RETURNS (List[Advice]): The precision, the runtime and the threads of this machine."""
    import torch

    from ..encoder.model.weights import get_dtype
    from ..encoder.runtime.choice import CPU, get_runtime
    from ..encoder.runtime.cpu.capability import get_choice, get_cpu

    cpu, devices = get_cpu(), ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    has = {"AVX-512": cpu.has_avx512, "bfloat16": cpu.has_bfloat16, "AMX": cpu.has_amx}
    features = ", ".join(name for name, is_there in has.items() if is_there)
    found = [Advice(f"CPU: {cpu.vendor or platform.machine()}, {features or 'no AVX-512'}")]
    for name in devices:
        dtype = str(get_dtype("auto", torch.device(name))).removeprefix("torch.")
        found.append(Advice(f'precision = "auto" is {dtype} on {name}'))
        is_cpu = get_runtime("auto", torch.device(name)) is CPU
        kernels = [kernel for kernel, is_used in asdict(get_choice()).items() if is_used and is_cpu]
        shown = ", ".join(["cpu" if is_cpu else "eager", *kernels])
        found.append(Advice(f'runtime = "auto" is {shown} on {name}'))
    return [*found, Advice(f"Threads of torch: {torch.get_num_threads()}")]


def check_extras() -> list[Advice]:
    """RETURNS (List[Advice]): The extras that are installed, and those that are not."""
    found = []
    for extra in get_extras():
        if extra == "tests":
            continue
        packages = ", ".join(sorted({needed.name for needed in get_requirements(NAME, extra)}))
        purpose = PURPOSES.get(extra, "more features")
        if find_missing(extra):
            text = f"{extra} is not complete ({purpose}): {packages}"
            found.append(Advice(text, get_install_line(extra)))
        else:
            found.append(Advice(f"{extra} ({purpose}): {packages}"))
    return found


SECTIONS: dict[str, Callable[[], list[Advice]]] = {
    "Versions": check_versions,
    "GPU": check_gpu,
    "Speed": check_speed,
    "Extras": check_extras,
}
