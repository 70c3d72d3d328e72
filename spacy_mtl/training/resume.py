"""What a training is made of at a step, in a file: enough to go on as if it had never stopped.

It is in torch's own format, read with `weights_only`: tensors, and all else as JSON. The place in
the stream of batches is not in it: the stream is drawn again, from the same random numbers.
"""

import json
import os
import random
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy
import torch
from spacy.language import Language
from spacy.util import dict_to_dot
from thinc.api import Model, Optimizer, get_current_ops
from thinc.compat import has_cupy_gpu

from ..encoder.cpu import KernelChoice, can_run, get_choice, get_cpu
from ..encoder.serialization import read_pickle
from ..errors import Errors, Warnings
from ..files import replacing
from ..storage import check_type, parse_json
from .adamw import get_shim_key

FORMAT = 1
RATE = "dropout_rate"  # of a layer, set when it learns and saved with it
FREE = ("training.max_steps", "training.max_epochs", "training.patience", "training.logger.")
BROKEN = (BadZipFile, OSError, RuntimeError, LookupError, TypeError, ValueError)
PLAIN = {"config": dict, "pipes": dict[str, dict], "random": dict, "step": int, "updates": dict}
TABLES = ("mom1", "mom2", "averages")  # of an optimizer


def get_random_states() -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): The states of all generators but cupy's, which tells none."""
    name, keys, *rest = tuple(numpy.random.get_state())
    states = {
        "python": random.getstate(),
        "numpy": [name, numpy.asarray(keys).tolist(), *rest],
        "torch": to_hex(torch.get_rng_state()),
    }
    if torch.cuda.is_initialized():
        states["cuda"] = [to_hex(state) for state in torch.cuda.get_rng_state_all()]
    return states


def set_random_states(states: Mapping[str, Any]) -> None:
    """Put generators into the states that `get_random_states` returned."""
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
    """Seed cupy's generator, whose state cannot be read, by the step, in every training."""
    if has_cupy_gpu:
        import cupy

        cupy.random.seed((torch.initial_seed() + step) % 2**32)


def get_nodes(nlp: Language) -> Iterator[tuple[str, Model]]:
    """YIELDS (Tuple[str, Model]): All nodes of all models, by names that are the same in another
    process.
    """
    for name, pipe in nlp.pipeline:
        model = getattr(pipe, "model", None)
        if isinstance(model, Model):
            yield from ((f"{name}/{i}", node) for i, node in enumerate(model.walk()))


def get_shims(nlp: Language) -> dict[str, Any]:
    """RETURNS (Dict[str, Shim]): All torch modules' shims by name."""
    return {f"{n}/{i}": shim for n, node in get_nodes(nlp) for i, shim in enumerate(node.shims)}


def get_weights(nlp: Language) -> dict[str, torch.Tensor]:
    """RETURNS (Dict[str, torch.Tensor]): All weights by name, in the memory where they are."""
    weights = {
        f"{name}/{param}": torch.from_dlpack(node.get_param(param))
        for name, node in get_nodes(nlp)
        for param in node.param_names
        if node.has_param(param)
    }
    for name, shim in get_shims(nlp).items():
        weights |= {f"{name}/{key}": tensor for key, tensor in shim._model.state_dict().items()}
        if scaler := getattr(shim, "_grad_scaler", None):
            weights[f"{name} scale"] = scaler._scale
            weights[f"{name} growth"] = scaler._growth_tracker
    return weights


def get_keys(nlp: Language) -> dict[Any, str]:
    """RETURNS (Dict[Any, str]): For the keys that an optimizer may have, which hold ids that count
    up in a process, names that stay.
    """
    keys: dict[Any, str] = {
        (node.id, param): f"{name}/{param}"
        for name, node in get_nodes(nlp)
        for param in node.param_names
    }
    for name, shim in get_shims(nlp).items():
        keys[shim.id, ""] = name
        for param in shim._model.state_dict():
            keys[shim.id, param] = f"{name}/{param}"
            keys[get_shim_key(shim.id, param)] = f"{name} average/{param}"
    return keys


def get_pipe_states(nlp: Language) -> dict[str, dict[str, Any]]:
    """RETURNS (Dict[str, Dict[str, Any]]): What components learn beside their weights."""
    states: dict[str, dict[str, Any]] = {}
    for name, pipe in [(n, p) for n, p in nlp.pipeline if getattr(p, "is_trainable", False)]:
        states[name] = {"cfg": dict(getattr(pipe, "cfg", {}))}
        if hasattr(pipe, "is_frozen"):
            states[name]["is_frozen"] = pipe.is_frozen
        if hasattr(pipe, "diagnostics"):
            warned = sorted(pipe.diagnostics.warned)
            states[name]["diagnostics"] = vars(pipe.diagnostics) | {"warned": warned}
            states[name]["balancer"] = pipe.balancer.to_dict()  # type: ignore[attr-defined]
    return states


def set_pipe_states(nlp: Language, states: Mapping[str, Mapping[str, Any]]) -> None:
    """Restore what `get_pipe_states` returned."""
    for name, state in states.items():
        pipe: Any = nlp.get_pipe(name)
        if state["cfg"]:
            pipe.cfg.update(state["cfg"])
        if "is_frozen" in state:
            pipe.is_frozen = state["is_frozen"]
        if "diagnostics" in state:
            warned = set(state["diagnostics"]["warned"])
            vars(pipe.diagnostics).update(state["diagnostics"], warned=warned)
            pipe.balancer.from_dict(state["balancer"])


def get_machine() -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): What the rounding of numbers depends on, beside the config."""
    return {
        "kernels": asdict(get_choice()),
        "cpu": asdict(get_cpu()),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def find_kernels(machine: Mapping[str, Any]) -> KernelChoice:
    """Find the kernels to go on with.

    machine (Mapping[str, Any]): What `get_machine` returned where the checkpoint was made.
    RETURNS (KernelChoice): Those of the checkpoint, if this CPU has them. W010 warns of all that
        differs here.
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


def get_state(nlp: Language, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """RETURNS (Tuple[Dict[str, Any], Dict[str, Any]]): The state of the pipeline, the optimizer and
    the generators between two steps: tensors, and what JSON can hold. Schedules are not in it.
    """
    keys = get_keys(nlp)
    modules = getattr(optimizer, "modules", {})
    tensors = {
        "weights": get_weights(nlp),
        "modules": {keys[id, ""]: adam.state_dict() for id, (_, adam) in modules.items()},
    }
    for table in TABLES:
        arrays = getattr(optimizer, table) or {}
        tensors[table] = {keys[key]: torch.from_dlpack(array) for key, array in arrays.items()}
    plain = {
        "pipes": get_pipe_states(nlp),
        "rates": {name: n.attrs[RATE] for name, n in get_nodes(nlp) if RATE in n.attrs},
        "updates": {keys[key]: n for key, n in optimizer.nr_update.items()},
        "radam": optimizer._radam_buffer,
        "random": get_random_states(),
        "machine": get_machine(),
    }
    return tensors, plain


def set_state(
    nlp: Language, optimizer: Any, tensors: Mapping[str, Any], plain: Mapping[str, Any]
) -> None:
    """Restore what `get_state` returned.

    RAISES (ValueError): M062 if the weights are of other shapes.
    """
    saved = tensors["weights"]
    for name, shim in get_shims(nlp).items():
        if any(key.startswith(name) and "lora_" in key for key in saved):
            shim.add_adapters()  # a sourced encoder gets them when training begins
    weights = get_weights(nlp)
    if unlike := sorted(
        name
        for name in weights.keys() | saved.keys()
        if name not in weights or name not in saved or weights[name].shape != saved[name].shape
    ):
        raise ValueError(Errors.M062.format(reason=f"weights such as {unlike[0]} have other sizes"))
    for name, tensor in saved.items():
        weights[name].copy_(tensor)
    keys = {name: key for key, name in get_keys(nlp).items()}
    shims, ops = get_shims(nlp), get_current_ops()
    for shim in shims.values():
        if hasattr(shim, "for_prediction"):
            shim.for_prediction.forget()
    devices: dict[Any, torch.device] = {}
    for name, state in tensors["modules"].items():
        key, module = shims[name].id, shims[name]._model
        optimizer.get_adam(key, module).load_state_dict(state)
        devices |= {get_shim_key(key, name): p.device for name, p in module.named_parameters()}
    for table in TABLES:
        for name, tensor in tensors[table].items():
            is_torch = keys[name] in devices
            array = tensor.to(devices[keys[name]]) if is_torch else ops.asarray(tensor.numpy())
            getattr(optimizer, table)[keys[name]] = array
    optimizer.nr_update.update({keys[name]: n for name, n in plain["updates"].items()})
    optimizer._radam_buffer = plain["radam"]
    set_pipe_states(nlp, plain["pipes"])
    nodes = dict(get_nodes(nlp))
    for name, rate in plain["rates"].items():
        nodes[name].attrs[RATE] = rate
    set_random_states(plain["random"])


def write_checkpoint(
    path: Path, nlp: Language, tensors: Mapping[str, Any], plain: Mapping[str, Any]
) -> None:
    """Write a checkpoint in the place of the last one: whenever this ends, one of them is there.

    RAISES (ValueError): M091 if it cannot be written.
    """
    about = {"format": FORMAT, "config": get_settings(nlp), **plain}
    with replacing(path) as new, new.open("wb") as file:
        torch.save({"tensors": dict(tensors), "plain": json.dumps(about)}, file)
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(path: Path, nlp: Language) -> dict[str, Any]:
    """Read a checkpoint.

    path (Path): The file.
    nlp (Language): The pipeline, initialized from the config.
    RETURNS (Dict[str, Any]): What was written, with the tensors on the CPU.
    RAISES (ValueError): M061 if it is cut off, corrupt or no checkpoint, M060 if it is of another
        config: one that differs in more than `max_steps`, `max_epochs`, `patience` and the logger,
        M064 if it is behind `max_steps`.
    """
    try:
        loaded = check_type(read_pickle(path, "cpu"), dict[str, Any], "checkpoint")
        plain = check_type(parse_json(loaded["plain"], "plain"), dict[str, Any], "plain")
        if plain["format"] != FORMAT:
            raise ValueError(f"format {plain['format']}")
        for key, kind in PLAIN.items():
            check_type(plain[key], kind, f"plain.{key}")
        check_type(loaded["tensors"], dict[str, dict], "tensors")
    except BROKEN as err:
        raise ValueError(Errors.M061.format(path=path, error=err)) from err
    old, new = plain["config"], get_settings(nlp)
    if differences := [
        f"{key} = {json.dumps(new.get(key))}, not {json.dumps(old.get(key))}"
        for key in old | new
        if old.get(key) != new.get(key)
    ]:
        raise ValueError(Errors.M060.format(path=path, differences="\n".join(differences[:10])))
    max_steps = nlp.config.interpolate()["training"]["max_steps"]
    if 0 < max_steps < plain["step"]:
        raise ValueError(Errors.M064.format(step=plain["step"], max_steps=max_steps))
    return {"tensors": loaded["tensors"], **plain}


def get_settings(nlp: Language) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): What of the config must be the same when a training goes on, by its
    sections and keys. Variables stay what they are: a rate's `total_steps` may follow `max_steps`.
    """
    settings = {k: v for k, v in dict_to_dot(nlp.config).items() if not k.startswith(FREE)}
    settings["training.max_epochs < 0"] = nlp.config.interpolate()["training"]["max_epochs"] < 0
    return json.loads(json.dumps(settings))


def to_hex(state: torch.Tensor) -> str:
    return state.numpy().tobytes().hex()


def from_hex(state: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(state), dtype=torch.uint8)
