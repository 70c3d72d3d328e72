"""The state of a training run at a step, in a file: enough to resume as if it had never stopped.

The file has torch's own format and is read with `weights_only`: tensors, and everything else as
JSON. It does not hold the position in the stream of batches: `ResumeReplay` draws the stream again
from the same random numbers.
"""

import json
import os
import random
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy
import torch
from spacy.language import Language
from spacy.pipeline import TrainablePipe
from spacy.util import dict_to_dot
from thinc.api import Optimizer, get_current_ops
from thinc.compat import has_cupy_gpu
from torch.utils.dlpack import from_dlpack

from ..contracts import TrainingState
from ..encoder.model.serialization import read_pickle
from ..encoder.model.shim import EncoderShim
from ..encoder.runtime.cpu.capability import KernelChoice, can_run, get_choice, get_cpu
from ..errors import Errors, Warnings
from ..files import replacing
from ..storage import check_type, parse_json
from ..types import Settings
from ..weights import Key, ModelWeights, get_average_key
from .adamw import AdamW
from .step import find_trainable

FORMAT = 2
RATE = "dropout_rate"  # an attribute of layers, set by updates and saved with the pipeline
# Settings that may differ in a resumed run.
FREE = (
    *("training.max_steps", "training.max_epochs", "training.patience", "training.logger."),
    *(f"training.optimizer.{rate}.total_steps" for rate in ("learn_rate", "encoder_learn_rate")),
)
BROKEN = (BadZipFile, OSError, RuntimeError, LookupError, TypeError, ValueError)
PLAIN = {
    "config": Settings,
    "pipes": dict[str, Settings],
    "random": Settings,
    "machine": Settings,
    "step": int,
    "updates": dict[str, int],
}
Tensors = dict[str, Settings]  # tensors or states of torch optimizers, by table and name


def get_random_states() -> Settings:
    """RETURNS (Settings): The states of all random number generators except cupy's, which
    cannot be read.
    """
    name, keys, *rest = tuple(numpy.random.get_state())
    states: Settings = {
        "python": random.getstate(),
        "numpy": [name, numpy.asarray(keys).tolist(), *rest],
        "torch": to_hex(torch.get_rng_state()),
    }
    if torch.cuda.is_initialized():
        states["cuda"] = [to_hex(state) for state in torch.cuda.get_rng_state_all()]
    return states


def set_random_states(states: Settings) -> None:
    """Restore states that `get_random_states` returned, of all generators or of some."""
    if "python" in states:
        version, internal, gauss = states["python"]
        random.setstate((version, tuple(internal), gauss))
    if "numpy" in states:
        numpy.random.set_state(tuple(states["numpy"]))
    if "torch" in states:
        torch.set_rng_state(from_hex(states["torch"]))
    for i, state in enumerate(states.get("cuda", [])[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(from_hex(state), i)


def seed_cupy(step: int) -> None:
    """Seed cupy's generator by the step, in every run: its state cannot be saved."""
    if has_cupy_gpu:
        import cupy

        cupy.random.seed((torch.initial_seed() + step) % 2**32)


def get_pipe_states(nlp: Language) -> dict[str, Settings]:
    """RETURNS (Dict[str, Settings]): The state of each trainable component besides weights:
    its `state_dict`, or the `cfg` of a component that is no TrainingState.
    """
    states: dict[str, Settings] = {}
    for name, pipe in find_trainable(nlp).items():
        if isinstance(pipe, TrainingState):
            states[name] = pipe.state_dict()
        elif isinstance(pipe, TrainablePipe):
            states[name] = dict(pipe.cfg or {})
    return states


def set_pipe_states(nlp: Language, states: Mapping[str, Settings]) -> None:
    """Restore the result of `get_pipe_states`."""
    for name, pipe in find_trainable(nlp).items():
        if isinstance(pipe, TrainingState):
            pipe.load_state_dict(states[name])
        elif isinstance(pipe, TrainablePipe) and states[name]:
            pipe.cfg.update(states[name])


def get_machine() -> Settings:
    """RETURNS (Settings): The kernels, CPU, torch version and threads. Rounding depends on
    them.
    """
    return {
        "kernels": asdict(get_choice()),
        "cpu": asdict(get_cpu()),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def find_kernels(machine: Settings) -> KernelChoice:
    """Find the kernels for a resumed run. Warns by W010 if this machine differs.

    machine (Settings): The result of `get_machine` on the machine of the checkpoint.
    RETURNS (KernelChoice): The kernels of the checkpoint if this CPU can run them, otherwise the
        choice for this CPU.
    """
    kernels, here = KernelChoice(**machine["kernels"]), get_machine()
    if can_run(kernels, get_cpu()):
        here["kernels"] = machine["kernels"]
    else:
        kernels = get_choice()
    before, now = dict_to_dot(dict(machine)), dict_to_dot(here)
    differences = [f"{k} = {before.get(k)}, not {now[k]}" for k in now if before.get(k) != now[k]]
    if differences:
        warnings.warn(Warnings.W010.format(differences="; ".join(differences)))
    return kernels


def get_state(nlp: Language, optimizer: Optimizer) -> tuple[Tensors, Settings]:
    """RETURNS (Tuple[Dict, Dict]): The state of the pipeline, the optimizer and the random number
    generators between two steps: tensors, and the rest as JSON can hold it. Schedules are left out.
    """
    weights = ModelWeights.of_pipeline(nlp)
    keys = weights.get_keys()
    modules = optimizer.modules if isinstance(optimizer, AdamW) else {}
    tensors: Tensors = {
        "weights": weights.get_values(),
        "modules": {keys[id, ""]: adam.state_dict() for id, (_, adam) in modules.items()},
    }
    for table, arrays in get_tables(optimizer).items():
        tensors[table] = {keys[key]: from_dlpack(array) for key, array in arrays.items()}
    plain = {
        "pipes": get_pipe_states(nlp),
        "rates": {name: n.attrs[RATE] for name, n in weights.nodes.items() if RATE in n.attrs},
        "updates": {keys[key]: n for key, n in optimizer.nr_update.items()},
        "radam": optimizer._radam_buffer,
        "random": get_random_states(),
        "machine": get_machine(),
    }
    return tensors, plain


def set_state(nlp: Language, optimizer: Optimizer, tensors: Tensors, plain: Settings) -> None:
    """Restore the result of `get_state`.

    RAISES (ValueError): M062 if weights have other shapes.
    """
    weights = set_weights(nlp, tensors["weights"])
    set_optimizer_state(optimizer, weights, tensors, plain)
    set_pipe_states(nlp, plain["pipes"])
    for name, rate in plain["rates"].items():
        weights.nodes[name].attrs[RATE] = rate
    set_random_states(plain["random"])


def set_weights(nlp: Language, saved: Mapping[str, torch.Tensor]) -> ModelWeights:
    """RETURNS (ModelWeights): The weights of the pipeline, after the saved values were copied.
    RAISES (ValueError): M062 if weights have other shapes.
    """
    weights = ModelWeights.of_pipeline(nlp)
    for name, shim in weights.shims.items():
        if isinstance(shim, EncoderShim):
            shim.for_prediction.forget()
            if any(key.startswith(name) and "lora_" in key for key in saved):
                shim.add_adapters()  # a sourced encoder gets adapters when training begins
    values = weights.get_values()
    shapes, found = ({key: t.shape for key, t in d.items()} for d in (saved, values))
    if differing := sorted(key for key in shapes | found if shapes.get(key) != found.get(key)):
        reason = f"weights such as {differing[0]} have other sizes"
        raise ValueError(Errors.M062.format(reason=reason))
    for name, tensor in saved.items():
        values[name].copy_(tensor)
    return weights


def set_optimizer_state(
    optimizer: Optimizer, weights: ModelWeights, tensors: Tensors, plain: Settings
) -> None:
    """Restore the moments, averages and counts of an optimizer."""
    keys = {name: key for key, name in weights.get_keys().items()}
    devices: dict[Key, torch.device] = {}
    for name, state in tensors["modules"].items():
        assert isinstance(optimizer, AdamW)
        shim = weights.shims[name]
        optimizer.get_adam(shim.id, shim._model).load_state_dict(state)
    for shim in weights.shims.values():
        named = shim._model.named_parameters()
        devices |= {get_average_key(shim.id, name): p.device for name, p in named}
    ops = get_current_ops()
    for table, arrays in get_tables(optimizer).items():
        for name, tensor in tensors[table].items():
            key = keys[name]
            is_torch = key in devices
            array = tensor.to(devices[key]) if is_torch else ops.asarray(tensor.numpy())
            arrays[key] = array
    counts: dict[Any, int] = optimizer.nr_update
    counts.update({keys[name]: n for name, n in plain["updates"].items()})
    optimizer._radam_buffer = plain["radam"]


def get_tables(optimizer: Optimizer) -> dict[str, dict[Key, Any]]:
    """RETURNS (Dict[str, Dict[Key, FloatsXd]]): The moments and averages of an optimizer."""
    tables: Settings = {"mom1": optimizer.mom1, "mom2": optimizer.mom2}
    return tables | {"averages": {} if optimizer.averages is None else optimizer.averages}


def write_checkpoint(path: Path, nlp: Language, tensors: Tensors, plain: Settings) -> None:
    """Replace the checkpoint. If the process is killed meanwhile, the old one is still there.

    path (Path): The file.
    nlp (Language): The pipeline, for its config.
    tensors, plain (Dict): The result of `get_state`, and the progress.
    RAISES (WriteError): M091 if the file cannot be written.
    """
    about = {"format": FORMAT, "config": get_settings(nlp), **plain}
    with replacing(path) as new, new.open("wb") as file:
        torch.save({"tensors": tensors, "plain": json.dumps(about)}, file)
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(path: Path, nlp: Language) -> Settings:
    """Read a checkpoint.

    path (Path): The file.
    nlp (Language): The pipeline, initialized from the config.
    RETURNS (Settings): The entries of the checkpoint, with the tensors on the CPU.
    RAISES (ValueError): M061 if the file is cut off, corrupt, no checkpoint or one of another
        format; M060 if the config differs in more than `max_steps`, `max_epochs`, `patience` and
        the logger; M064 if the checkpoint is after `max_steps`.
    """
    try:
        loaded = check_type(read_pickle(path, "cpu"), Settings, "checkpoint")
        plain = check_type(parse_json(loaded["plain"], "plain"), Settings, "plain")
        if plain["format"] != FORMAT:
            raise ValueError(f"format {plain['format']}")
        for key, kind in PLAIN.items():
            check_type(plain[key], kind, f"plain.{key}")
        check_type(loaded["tensors"], Tensors, "tensors")
    except BROKEN as err:
        raise ValueError(Errors.M061.format(path=path, error=err)) from err
    if differences := find_differences(plain["config"], get_settings(nlp)):
        raise ValueError(Errors.M060.format(path=path, differences="\n".join(differences[:10])))
    max_steps = nlp.config.interpolate()["training"]["max_steps"]
    if 0 < max_steps < plain["step"]:
        raise ValueError(Errors.M064.format(step=plain["step"], max_steps=max_steps))
    return {"tensors": loaded["tensors"], **plain}


def find_differences(old: Settings, new: Settings) -> list[str]:
    """RETURNS (List[str]): A line for each setting that differs."""
    return [
        f"{key} = {json.dumps(new.get(key))}, not {json.dumps(old.get(key))}"
        for key in old | new
        if old.get(key) != new.get(key)
    ]


def get_settings(nlp: Language) -> Settings:
    """RETURNS (Settings): The settings that a resumed run must share with the first run, by
    section and key. Variables are not filled in: a schedule's `total_steps` may follow `max_steps`.
    """
    settings = {k: v for k, v in dict_to_dot(nlp.config).items() if not k.startswith(FREE)}
    settings["training.max_epochs < 0"] = nlp.config.interpolate()["training"]["max_epochs"] < 0
    plain: Settings = json.loads(json.dumps(settings))
    return plain


def to_hex(state: torch.Tensor) -> str:
    """RETURNS (str): The bytes of a generator's state, in hexadecimal."""
    return state.numpy().tobytes().hex()


def from_hex(state: str) -> torch.Tensor:
    """RETURNS (torch.Tensor): The state that `to_hex` has written."""
    return torch.frombuffer(bytearray.fromhex(state), dtype=torch.uint8)
