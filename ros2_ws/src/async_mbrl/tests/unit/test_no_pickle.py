"""Nothing is ever unpickled or executed: not in the code, not on the wire, not in files."""

from __future__ import annotations

import ast
import io
import json
import pickletools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import safetensors.numpy
import torch
from async_mbrl_interfaces import msg, srv

from async_mbrl.collection.journal import Journal, RecordKind
from async_mbrl.core.snapshot import Snapshot, Version, encode
from async_mbrl.learning import checkpoint

PACKAGE = Path(__file__).resolve().parents[2] / 'async_mbrl'
EXECUTES_DATA = {'pickle', '_pickle', 'cPickle', 'dill', 'cloudpickle', 'joblib', 'shelve',
                 'marshal', 'copyreg', 'multiprocessing', 'torch.multiprocessing', 'xmlrpc', 'pty'}
"""Modules that execute what they read, or send pickles (multiprocessing does)."""

FORBIDDEN_CALLS = {'eval', 'exec', 'compile', '__import__', 'torch.save', 'np.save', 'np.savez',
                   'numpy.save', 'yaml.unsafe_load', 'yaml.full_load', 'yaml.load_all',
                   'yaml.unsafe_load_all', 'yaml.full_load_all', 'yaml.dump'}
BLOBS = {'ParameterSnapshot.data'}
"""The one field of bytes on the wire: safetensors."""


def offences(source: str) -> list[str]:
    """Name what in a source executes data, or could."""
    return [text for node in ast.walk(ast.parse(source)) for text in _offences(node)]


def _offences(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = [node.module, *(f'{node.module}.{alias.name}' for alias in node.names)]
    else:
        names = []
    yield from (f'imports {name}' for name in names
                if any(name == bad or name.startswith(f'{bad}.') for bad in EXECUTES_DATA))
    if not isinstance(node, ast.Call):
        return
    called = ast.unparse(node.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if called in FORBIDDEN_CALLS:
        yield f'calls {called}'
    if called == 'torch.load' and given.get('weights_only') != 'True':
        yield 'calls torch.load without weights_only=True'
    if given.get('allow_pickle', 'False') != 'False':
        yield f'calls {called} with allow_pickle'
    # Where another loader is given, it is one of this package's, of which the next test tells.
    if called == 'yaml.load' and given.get('Loader') not in ('yaml.SafeLoader', '_Loader'):
        yield 'calls yaml.load without a safe loader'
    if called.endswith('import_module') and node.args and not (
            isinstance(node.args[0], ast.JoinedStr)
            and ast.unparse(node.args[0]).startswith(("f'async_mbrl.", "f'mujoco."))):
        yield f'imports {ast.unparse(node.args[0])} by name'


@pytest.mark.parametrize('path', sorted(PACKAGE.rglob('*.py')),
                         ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_executes_no_data(path: Path) -> None:
    assert offences(path.read_text()) == []


@pytest.mark.parametrize('source', [
    'import pickle', 'from pickle import loads', 'import numpy, dill',
    'import torch.multiprocessing',
    'from torch import multiprocessing', 'def f():\n    import joblib', 'torch.load(path)',
    'torch.load(path, weights_only=False)', 'torch.save(x, path)', 'np.load(p, allow_pickle=True)',
    'numpy.load(p, allow_pickle=flag)', 'yaml.load(text)', 'yaml.load(text, Loader=yaml.Loader)',
    'yaml.unsafe_load(text)', 'eval(text)', 'exec(text)', 'importlib.import_module(name)'])
def test_the_search_finds(source: str) -> None:
    assert offences(source)


def test_the_loaders_of_the_package_are_safe() -> None:
    found = [(path.name, [ast.unparse(base) for base in node.bases])
             for path in PACKAGE.rglob('*.py') for node in ast.walk(ast.parse(path.read_text()))
             if isinstance(node, ast.ClassDef) and 'Loader' in node.name]
    assert found == [('config.py', ['yaml.SafeLoader'])]


# ---- the wire ----

def types_of(module: ModuleType) -> Iterator[type]:
    for value in vars(module).values():
        if not isinstance(value, type):
            continue
        if hasattr(value, 'Request'):
            yield from (value.Request, value.Response)
        elif hasattr(value, 'get_fields_and_field_types'):
            yield value


def blobs(kind: type) -> list[str]:
    """Name the fields in which anything could travel: bytes."""
    return [f'{kind.__name__}.{name}' for name, type_name
            in kind.get_fields_and_field_types().items()
            if type_name.startswith('sequence<') and any(
                part in type_name for part in ('uint8', 'octet', 'byte', 'char', '<int8'))]


def test_only_snapshots_carry_bytes() -> None:
    kinds = [*types_of(msg), *types_of(srv)]
    assert len(kinds) > 15
    assert {field for kind in kinds for field in blobs(kind)} == BLOBS


SNAPSHOT = Snapshot('policy', Version(1, 2), {'sizes': [1, 2]},
                    {'weight': np.ones((2, 1), np.float32)})


def is_pickle(data: bytes) -> bool:
    """Whether bytes are a pickle, or an archive such as torch.save and numpy make with pickles."""
    if data[:4] == b'PK\x03\x04' or data[:6] == b'\x93NUMPY':
        return True
    try:
        return [code.name for code, _, _ in pickletools.genops(data)][-1:] == ['STOP']
    except Exception:   # whatever its parser raises: these are no pickle
        return False


def test_snapshots_are_safetensors() -> None:
    data = encode(SNAPSHOT)
    assert not is_pickle(data)
    assert list(safetensors.numpy.load(data)) == ['weight']
    header = json.loads(data[8:8 + int.from_bytes(data[:8], 'little')])
    assert json.loads(header['__metadata__']['async_mbrl'])['version'] == [1, 2]


def test_files_of_a_run_are_no_pickles(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, {'learner': 'x'}, {'weight': torch.ones(3)}, {'updates': 1})
    journal = Journal(tmp_path / 'journal', {'task': 'x'})
    journal.append(RecordKind.TRANSITION, 1, b'payload')
    journal.close()
    files = [path for path in tmp_path.rglob('*') if path.is_file() and path.name != 'lock']
    assert len(files) == 4
    assert [path.name for path in files if is_pickle(path.read_bytes())] == []


def test_pickles_are_told_from_other_bytes() -> None:
    archive = io.BytesIO()
    torch.save({'weight': torch.ones(3)}, archive)
    assert is_pickle(archive.getvalue())
    assert is_pickle(b'\x80\x04K\x01.')
    assert not is_pickle(b'{"a": 1}')


def test_reading_what_others_wrote_unpickles_nothing(tmp_path: Path) -> None:
    """With the interpreter itself as the witness."""
    checkpoint.write(tmp_path, {'learner': 'x'}, {'weight': torch.ones(3)}, {'updates': 1})
    (tmp_path / 'policy').write_bytes(encode(SNAPSHOT))
    (tmp_path / 'config').write_text('a: !!python/object/apply:os.getcwd []')
    script = f"""
import sys
from pathlib import Path
from async_mbrl.core import config, snapshot
from async_mbrl.learning import checkpoint
folder, seen = Path({str(tmp_path)!r}), []
sys.addaudithook(lambda event, _: seen.append(event) if event.startswith('pickle.') else None)
checkpoint.read(folder, {{'learner': 'x'}})
snapshot.read(folder / 'policy')
try:
    config.read_yaml(folder / 'config')
except config.ConfigError:
    seen.append('refused')
print(seen)
import pickle
pickle.loads(pickle.dumps(Path))    # the witness is awake
print(seen[-1])
"""
    ended = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True,
                           check=True)
    assert ended.stdout.split('\n')[:2] == ["['refused']", 'pickle.find_class']
