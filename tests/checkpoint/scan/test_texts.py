"""Configurations and templates: what they name or put together, in text, JSON, archives, GGUF and safetensors."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from modelprobe.checkpoint.answers.scan import scan
from modelprobe.checkpoint.pickle.globals import Trust
from modelprobe.checkpoint.scan.templates import template_findings

CONFIGS: dict[str, tuple[str, Trust]] = {
    "apply": ("a: !!python/object/apply:os.system ['true']\n", Trust.DANGEROUS),
    "new": ("a: !!python/object/new:os.system ['true']\n", Trust.DANGEROUS),
    "name": ("a: !!python/name:evil.x\n", Trust.DANGEROUS),
    "module": ("a: !!python/module:evil\n", Trust.DANGEROUS),
    "TAG": ("%TAG !p! tag:yaml.org,2002:python/\n---\na: !p!object/apply:os.system ['true']\n", Trust.DANGEROUS),
    "verbatim": ("a: !<tag:yaml.org,2002:python/object/apply:os.system> ['true']\n", Trust.DANGEROUS),
    "a tag in percent": ("a: !!p%79thon/object/apply:os.system ['true']\n", Trust.DANGEROUS),
    "Hydra": ("model:\n  _target_: subprocess.check_output\n  args: [true]\n", Trust.DANGEROUS),
    "Hydra, folded": ("_target_: >-\n  os.system\n", Trust.DANGEROUS),
    "Hydra, escaped": ('{"_target_": "o\\u0073.system"}', Trust.DANGEROUS),
    "Lightning": ("model:\n  class_path: os.system\n  init_args: {command: true}\n", Trust.DANGEROUS),
    "auto_map": (json.dumps({"auto_map": {"AutoModel": "evil.Net"}}), Trust.SUSPICIOUS),
    "Keras": (json.dumps({"module": "os", "class_name": "system"}), Trust.DANGEROUS),
    "Keras, a function": (
        json.dumps({"module": "builtins", "class_name": "function", "config": "exec"}),
        Trust.DANGEROUS,
    ),
    "Keras, reversed": (json.dumps({"class_name": "system", "module": "os"}), Trust.DANGEROUS),
    "Keras, a download": (json.dumps({"module": "keras.utils", "class_name": "get_file"}), Trust.SUSPICIOUS),
    "Keras, a saved model": (json.dumps({"class_name": "TFSMLayer"}), Trust.SUSPICIOUS),
    "skops": (json.dumps({"__class__": "system", "__module__": "os", "__loader__": "FunctionNode"}), Trust.DANGEROUS),
    "skops, a function of old": (
        json.dumps({"__loader__": "FunctionNode", "content": {"module_path": "os", "function": "system"}}),
        Trust.DANGEROUS,
    ),
    "a module under another key": (json.dumps({"class_module": "os", "__class__": "system"}), Trust.DANGEROUS),
    "mmengine": (json.dumps({"type": "os.system"}), Trust.DANGEROUS),
    "JSON in JSON": (json.dumps({"config": json.dumps({"_target_": "os.system"})}), Trust.DANGEROUS),
    "an honest one": (
        "optimizer:\n  _target_: torch.optim.AdamW\ndata:\n  _target_: torch.utils.data.DataLoader\n"
        "net:\n  class_path: mypackage.net.Net\nact:\n  _target_: torch.nn.functional.relu\ntype: os\n"
        "shape: !!python/tuple [1, 2]\nargs: !!python/object:argparse.Namespace {lr: 1}\nname: test.accuracy\n",
        Trust.HARMLESS,
    ),
    "packages named as modules of Python": (
        "".join(f"- _target_: {name}\n" for name in ("code.models.Net", "test.nets.Net", "commands.train.Run")),
        Trust.HARMLESS,
    ),
    "functions that compute or read": (
        "".join(
            f"- _target_: {name}\n"
            for name in (
                "os.path.join", "os.getenv", "math.sqrt", "queue.Queue", "multiprocessing.cpu_count", "torch.compile",
                "datasets.load_dataset", "transformers.AutoModel.from_pretrained", "omegaconf.OmegaConf.load",
                "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
            )
        ),
        Trust.HARMLESS,
    ),
    "functions of a package that are named so": ("_target_: mine.tools.run_all\n", Trust.SUSPICIOUS),
    "through a module that computes": ("_target_: os.path.os.system\n", Trust.DANGEROUS),
    "the standard library's tests": ("_target_: test.support.script_helper.run_python\n", Trust.DANGEROUS),
    "other modules of code": (json.dumps({"target_module": "lm_head", "name": "code.x"}), Trust.HARMLESS),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_names_in_configurations(kind: str, tmp_path: Path) -> None:
    text, trust = CONFIGS[kind]
    (tmp_path / "x.yaml").write_text(text)
    assert scan(tmp_path / "x.yaml").worst is trust
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("config", text)
    assert scan(tmp_path / "x.zip").worst is trust
    with tarfile.open(tmp_path / "x.nemo", "w") as packed:
        info = tarfile.TarInfo("model_config.yaml")
        info.size = len(text.encode())
        packed.addfile(info, io.BytesIO(text.encode()))
    assert scan(tmp_path / "x.nemo").worst is trust


ODD = {
    "concatenation": "{{ cycler['__in'+'it__'] }}",
    "tilde": "{{ ''['__cla'~'ss__'] }}",
    "two steps": "{% set u = '_' %}{% set n = u ~ u ~ 'class' ~ u ~ u %}{{ messages[n] }}",
    "hex": r"{{ ''['\x5f\x5fclass\x5f\x5f'] }}",
    "unicode": r"{{ x['\u005f\u005fclass\u005f\u005f'] }}",
    "octal": r"{{ x['\137\137class\137\137'] }}",
    "format": "{{ x['%c%cclass%c%c'%(95,95,95,95)] }}",
    "format, called": "{{ x['{0}{0}class{0}{0}'.format('_')] }}",
    "map with the name of a filter": "{{ x|map('attr', n) }}",
    "keywords": "{% set n = dict(__class__=1)|first %}{{ x[n] }}",
    "keywords in pieces": "{{ x[dict(__cla=1, ss__=2)|join] }}",
    "another name of lipsum": "{% with x = lipsum %}{{ x.a }}{% endwith %}",
    "join": "{{ ''|attr(['_','_','class','_','_']|join) }}",
    "slice": "{{ ''['__ssalc__'[::-1]] }}",
    "replace": "{{ ''['!!class!!'.replace('!','_')] }}",
    "lower": "{{ ''['__CLASS__'|lower] }}",
    "map": "{{ ['']|map(attribute='__cla'~'ss__')|list }}",
    "map, a variable": "{{ x|map(attribute=y)|list }}",
    "selectattr": "{{ ['']|selectattr('__class__')|list }}",
    "include": "{% include 'x' %}",
    "import": "{% import 'x' as y %}",
    "from": "{% from 'x' import y %}",
    "extends": "{% extends 'x' %}",
    "private": "{{ self._TemplateReference__context }}",
    "a macro": "{% macro m() %}{% endmacro %}{{ m._func }}",
    "a global": "{{ lipsum.x }}",
    "behind a dictionary": "{{ {'a': {'b': 1}} }}{{ x.__class__ }}",
    "behind a text with braces": "{{ '}}' ~ x.__class__ }}",
    "a long tag": "{{ " + "x + " * 9000 + "x.__class__ }}" + "{{ x._y }}",
}  # fmt: skip


def wrapped(template: str) -> dict[str, bytes]:
    def text(of: str) -> bytes:
        return struct.pack("<Q", len(of.encode())) + of.encode()

    header = json.dumps({"__metadata__": {"chat_template": template}}).encode()
    pairs = text("tokenizer.chat_template") + struct.pack("<I", 8) + text(template)
    return {
        "tokenizer_config.json": json.dumps({"chat_template": [{"name": "default", "template": template}]}).encode(),
        "nested.json": json.dumps({"x": json.dumps({"chat_template": template})}).encode(),
        "chat_template.jinja": template.encode(),
        "m.safetensors": struct.pack("<Q", len(header)) + header,
        "m.gguf": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pairs,
    }


@pytest.mark.parametrize("kind", ODD)
def test_templates_that_compute_names(kind: str, tmp_path: Path) -> None:
    for name, raw in wrapped(ODD[kind]).items():
        (tmp_path / name).write_bytes(raw)
        assert scan(tmp_path / name).worst is Trust.SUSPICIOUS, name


def test_templates_that_reach_the_system_are_dangerous(tmp_path: Path) -> None:
    template = "{% set a='__glo'+'bals__' %}{{ cycler['__in'+'it__'][a]['os'].popen('true') }}"
    for name, raw in wrapped(template).items():
        (tmp_path / name).write_bytes(raw)
        assert scan(tmp_path / name).worst is Trust.DANGEROUS, name


HONEST = r"""{%- macro strip(text) -%}{%- set ns = namespace(result='', is_first=true) -%}
{%- for part in text.split('<channel|>') -%}{%- set ns.result = ns.result + part.split('<|c|>')[0] -%}{%- endfor -%}
{{- ns.result | trim -}}{%- endmacro -%}
{%- set loop_messages = messages[1:] if messages[0]['role'] == 'system' else messages %}{#- a comment -#}
{%- set today = strftime_now("%d %b %Y") if strftime_now is defined else "26 Jul 2024" %}
{%- set system = messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | join('\n') %}
{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/...') }}{% endif %}
{{- '<|im_start|>' + message['role'] + '\n' + message.content.split('</think>')[-1].lstrip('\n') + '<|im_end|>\n' }}
{%- if message.tool_calls is defined and messages[loop.index0 - 1].role != 'tool' %}
{%- for call in message.tool_calls %}{{- "\n<tool_call>\n{\"name\": \"" ~ call.function.name ~ "\", \"arguments\": " }}
{{- call['function']['arguments'] | tojson(indent=4) }}{{- '}' }}{%- endfor %}{%- endif %}
{%- set last = messages[(messages|length - 1) - loop.index0] %}{%- set key = tool.parameters.properties[param_name] %}
{{- {'a': 'b'}[message.role] }}{%- set id = 'call_' + loop.index|string %}{{ id.replace('_', ' ') }}
{%- set letter = "ABCDEF"[:labels|length] %}{% generation %}{{ caller() }}{% endgeneration %}
{%- set _ = items.append(1) %}{{ json_dict(x)|items|map('upper')|list }}
{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{{ '<__media__>' }}{% endif %}"""


def test_honest_templates_are_no_alarm(tmp_path: Path) -> None:
    assert list(template_findings(HONEST)) == []
    for name, raw in wrapped(HONEST).items():
        (tmp_path / name).write_bytes(raw)
        assert scan(tmp_path / name).worst in (Trust.HARMLESS, Trust.UNKNOWN), name


@pytest.mark.zoo
@pytest.mark.parametrize("text", ["{{" * 200_000, "{{ '" * 100_000, '{{ "' * 100_000, "{%x" * 100_000, "{{[" * 90_000])
def test_templates_that_never_end_cost_little(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.jinja").write_text(text)
    (tmp_path / "x.json").write_text(json.dumps({"a": text}))
    assert scan(tmp_path).worst in (Trust.HARMLESS, Trust.SUSPICIOUS)
