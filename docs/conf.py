"""How the documentation is built: ``sphinx-build -W -n docs build/docs``. It needs graphviz for one drawing."""

import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

from crux_sync import __version__  # noqa: E402 - from this tree, wherever another is installed

project = "crux_sync"
author = "the crux_sync authors"
release = version = __version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.graphviz", "crux_docs"]
exclude_patterns = ["_build"]
default_role = "py:obj"
nitpicky = True

html_theme = "furo"
html_title = f"crux_sync {version}"
html_show_copyright = False
graphviz_output_format = "svg"

autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_typehints = "signature"
autodoc_type_aliases = {"Id": "Id"}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90

# Other projects' names are not looked up over the network; every name of our own must be found.
nitpick_ignore_regex = [
    ("py:class", r"crux_sync\.registering\.F"),
    (
        "py:.*",
        r"(msgspec|ssl|queue|threading|collections|typing|os|pathlib|json|logging|types|deque|argparse|prometheus_client)\..*",
    ),
    ("py:.*", r"(Path|PathLike|Any|Self|Callable|Iterable|Iterator|Mapping|Sequence|Hashable|Id)"),
    ("py:class", r"crux_sync\.(simulator\.core\.Peer|consumers\.F|callbacks\.F)"),
]
