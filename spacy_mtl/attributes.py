"""Custom attributes of docs that heads write, such as `doc._.relations`.

spaCy loads the factories of all installed packages when it makes a pipeline, also in the processes
of `n_process`. Their modules import this one, so the attributes exist wherever there is a pipeline.
A value is plain data, which DocBin, `Doc.to_json` and pickling keep.
"""

from typing import Any

from spacy.tokens import Doc

from .errors import Errors

KEYS: set[object] = set()  # of all attributes, in `doc.user_data`


class CustomAttribute:
    """An attribute of docs, `doc._.NAME`, that is None until it is set.

    name (str): The name.
    RAISES (ValueError): M290 if it is registered already as a property or method, or with a default
        value.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._key = make_key(name)
        KEYS.add(self._key)
        if not Doc.has_extension(name):
            Doc.set_extension(name, default=None)
        elif Doc.get_extension(name) != (None, None, None, None):
            raise ValueError(Errors.M290.format(name=name))

    def read(self, doc: Doc) -> Any:
        """RETURNS: The value, None if it was never set."""
        return doc.user_data.get(self._key)

    def write(self, doc: Doc, value: object) -> None:
        """Set the value, or remove it if it is None."""
        if value is None:
            doc.user_data.pop(self._key, None)
        else:
            doc.user_data[self._key] = value


def make_key(name: str) -> Any:
    """RETURNS (Tuple): The key of `doc.user_data` under which spaCy keeps a custom attribute of the
    doc. Untyped: spaCy's type says that keys are strings.
    """
    return ("._.", name, None, None)


def get_values(doc: Doc) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): The custom attributes of a doc that are set, by name."""
    keys = [key for key in doc.user_data if isinstance(key, tuple) and key[0] == "._."]
    return {key[1]: doc.user_data[key] for key in keys if key[2] is None}
