"""The catalog against the published table, written out here once more (specification 1.2 and appendix A)."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest
from rich.console import Console

from hanlin.cli import main
from hanlin.commands.models import show
from hanlin.model.catalog import CATALOG, find_entry, nearest_ids, search, unknown_id
from hanlin.model.catalog_2023 import ENTRIES_2023
from hanlin.model.entry import Entry
from hanlin.template import TEMPLATES
from hanlin.train.start import DEFAULT_TEMPLATE

# id, ModelScope, Hugging Face ("=" the same, "-" none), template ("-" unset), LoRA targets, weights, forced dtype
TABLE = """
qwen-7b                   qwen/Qwen-7B                               Qwen/Qwen-7B                        -                  c_attn
qwen-7b-chat              qwen/Qwen-7B-Chat                          Qwen/Qwen-7B-Chat                   chatml             c_attn
qwen-14b                  qwen/Qwen-14B                              Qwen/Qwen-14B                       -                  c_attn
qwen-14b-chat             qwen/Qwen-14B-Chat                         Qwen/Qwen-14B-Chat                  chatml             c_attn
qwen-7b-chat-int4         qwen/Qwen-7B-Chat-Int4                     Qwen/Qwen-7B-Chat-Int4              chatml             c_attn           gptq-int4  float16
qwen-14b-chat-int4        qwen/Qwen-14B-Chat-Int4                    Qwen/Qwen-14B-Chat-Int4             chatml             c_attn           gptq-int4  float16
qwen-7b-chat-int8         qwen/Qwen-7B-Chat-Int8                     Qwen/Qwen-7B-Chat-Int8              chatml             c_attn           gptq-int8  float16
qwen-14b-chat-int8        qwen/Qwen-14B-Chat-Int8                    Qwen/Qwen-14B-Chat-Int8             chatml             c_attn           gptq-int8  float16
qwen-vl                   qwen/Qwen-VL                               Qwen/Qwen-VL                        -                  c_attn
qwen-vl-chat              qwen/Qwen-VL-Chat                          Qwen/Qwen-VL-Chat                   chatml             c_attn
qwen-vl-chat-int4         qwen/Qwen-VL-Chat-Int4                     Qwen/Qwen-VL-Chat-Int4              chatml             c_attn           gptq-int4  float16
baichuan-7b               baichuan-inc/baichuan-7B                   baichuan-inc/Baichuan-7B            -                  W_pack
baichuan-13b              baichuan-inc/Baichuan-13B-Base             =                                   -                  W_pack
baichuan-13b-chat         baichuan-inc/Baichuan-13B-Chat             =                                   baichuan           W_pack
baichuan2-7b              baichuan-inc/Baichuan2-7B-Base             =                                   -                  W_pack
baichuan2-7b-chat         baichuan-inc/Baichuan2-7B-Chat             =                                   baichuan           W_pack
baichuan2-7b-chat-int4    baichuan-inc/Baichuan2-7B-Chat-4bits       =                                   baichuan           W_pack           bnb-4bit   bfloat16
baichuan2-13b             baichuan-inc/Baichuan2-13B-Base            =                                   -                  W_pack
baichuan2-13b-chat        baichuan-inc/Baichuan2-13B-Chat            =                                   baichuan           W_pack
baichuan2-13b-chat-int4   baichuan-inc/Baichuan2-13B-Chat-4bits      =                                   baichuan           W_pack           bnb-4bit   bfloat16
chatglm2-6b               ZhipuAI/chatglm2-6b                        THUDM/chatglm2-6b                   chatglm2           query_key_value
chatglm2-6b-32k           ZhipuAI/chatglm2-6b-32k                    THUDM/chatglm2-6b-32k               chatglm2           query_key_value
llama2-7b                 modelscope/Llama-2-7b-ms                   meta-llama/Llama-2-7b-hf            -                  q_proj,k_proj,v_proj
llama2-13b                modelscope/Llama-2-13b-ms                  meta-llama/Llama-2-13b-hf           -                  q_proj,k_proj,v_proj
llama2-70b                modelscope/Llama-2-70b-ms                  meta-llama/Llama-2-70b-hf           -                  q_proj,k_proj,v_proj
llama2-7b-chat            modelscope/Llama-2-7b-chat-ms              meta-llama/Llama-2-7b-chat-hf       llama              q_proj,k_proj,v_proj
llama2-13b-chat           modelscope/Llama-2-13b-chat-ms             meta-llama/Llama-2-13b-chat-hf      llama              q_proj,k_proj,v_proj
llama2-70b-chat           modelscope/Llama-2-70b-chat-ms             meta-llama/Llama-2-70b-chat-hf      llama              q_proj,k_proj,v_proj
openbuddy-llama2-13b-chat OpenBuddy/openbuddy-llama2-13b-v8.1-fp16   =                                   openbuddy          q_proj,k_proj,v_proj
openbuddy-llama-65b-chat  OpenBuddy/openbuddy-llama-65b-v8-bf16      =                                   openbuddy          q_proj,k_proj,v_proj
openbuddy-llama2-70b-chat OpenBuddy/openbuddy-llama2-70b-v10.1-bf16  =                                   openbuddy          q_proj,k_proj,v_proj
openbuddy-mistral-7b-chat OpenBuddy/openbuddy-mistral-7b-v13.1       -                                   openbuddy          q_proj,k_proj,v_proj
internlm-7b               Shanghai_AI_Laboratory/internlm-7b         internlm/internlm-7b                -                  q_proj,k_proj,v_proj
internlm-7b-chat          Shanghai_AI_Laboratory/internlm-chat-7b-v1_1 internlm/internlm-chat-7b-v1_1    internlm           q_proj,k_proj,v_proj
internlm-7b-chat-8k       Shanghai_AI_Laboratory/internlm-chat-7b-8k internlm/internlm-chat-7b-8k        internlm           q_proj,k_proj,v_proj
internlm-20b              Shanghai_AI_Laboratory/internlm-20b        internlm/internlm-20b               -                  q_proj,k_proj,v_proj
internlm-20b-chat         Shanghai_AI_Laboratory/internlm-chat-20b   internlm/internlm-chat-20b          internlm           q_proj,k_proj,v_proj
xverse-7b                 xverse/XVERSE-7B                           =                                   -                  q_proj,k_proj,v_proj
xverse-7b-chat            xverse/XVERSE-7B-Chat                      =                                   xverse             q_proj,k_proj,v_proj
xverse-13b                xverse/XVERSE-13B                          =                                   -                  q_proj,k_proj,v_proj
xverse-13b-chat           xverse/XVERSE-13B-Chat                     =                                   xverse             q_proj,k_proj,v_proj
mistral-7b                AI-ModelScope/Mistral-7B-v0.1              mistralai/Mistral-7B-v0.1           -                  q_proj,k_proj,v_proj
mistral-7b-chat           AI-ModelScope/Mistral-7B-Instruct-v0.1     mistralai/Mistral-7B-Instruct-v0.1  llama              q_proj,k_proj,v_proj
ziya2-13b                 Fengshenbang/Ziya2-13B-Base                IDEA-CCNL/Ziya2-13B-Base            -                  q_proj,k_proj,v_proj
ziya2-13b-chat            Fengshenbang/Ziya2-13B-Chat                IDEA-CCNL/Ziya2-13B-Chat            ziya               q_proj,k_proj,v_proj
polylm-13b                damo/nlp_polylm_13b_text_generation        DAMO-NLP-MT/polylm-13b              -                  c_attn
seqgpt-560m               damo/nlp_seqgpt-560m                       DAMO-NLP/SeqGPT-560M                default-generation query_key_value
chatglm3-6b-base          ZhipuAI/chatglm3-6b-base                   THUDM/chatglm3-6b-base              default            query_key_value
chatglm3-6b               ZhipuAI/chatglm3-6b                        THUDM/chatglm3-6b                   chatglm3           query_key_value
chatglm3-6b-32k           ZhipuAI/chatglm3-6b-32k                    THUDM/chatglm3-6b-32k               chatglm3           query_key_value
skywork-13b               skywork/Skywork-13B-base                   Skywork/Skywork-13B-base            default            q_proj,k_proj,v_proj
skywork-13b-chat          skywork/Skywork-13B-chat                   -                                   skywork            q_proj,k_proj,v_proj
"""  # noqa: E501
ROWS = [line.split() for line in TABLE.strip().splitlines()]


def test_the_ids_of_2023_are_all_here_in_their_order() -> None:
    assert [entry.id for entry in ENTRIES_2023] == [row[0] for row in ROWS]
    assert [row[0] for row in ROWS].index("seqgpt-560m") == 46


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_an_entry_of_2023_is_as_published(row: list[str]) -> None:
    id, modelscope, huggingface, template, targets, *weights = row
    entry = CATALOG[id]
    assert entry.modelscope == modelscope
    assert entry.huggingface == {"=": modelscope, "-": None}.get(huggingface, huggingface)
    assert entry.template == (None if template == "-" else template)
    assert entry.lora_target_modules == ("qkv",)
    assert entry.qkv == tuple(targets.split(","))
    assert [entry.quantization, entry.dtype] == (weights or [None, None])
    ignored = (r".+\.bin$",) if id.startswith("llama2-") else ()
    assert entry.ignore_file_pattern == ignored


def test_no_hub_id_leads_to_two_entries() -> None:
    owners: dict[str, str] = {}
    for entry in CATALOG.values():
        assert entry.hub_ids(), entry.id
        for hub_id in entry.hub_ids():
            assert hub_id.count("/") == 1
            assert owners.setdefault(hub_id.lower(), entry.id) == entry.id
        assert entry.id == entry.id.lower()


def test_every_template_of_the_catalog_is_a_known_one() -> None:
    named = {entry.template for entry in CATALOG.values() if entry.template}
    assert named <= set(TEMPLATES)
    assert DEFAULT_TEMPLATE in TEMPLATES
    assert {"chatml", "baichuan", "chatglm2", "llama", "openbuddy", "internlm", "xverse", "ziya"} <= named


def test_an_entry_is_found_by_either_hub_id_in_any_case() -> None:
    for name in ("meta-llama/Llama-2-7b-hf", "modelscope/llama-2-7b-MS", "META-LLAMA/llama-2-7B-HF"):
        entry = find_entry(name)
        assert entry is not None
        assert entry.id == "llama2-7b"
    assert find_entry("llama2-7b") is None
    assert find_entry("someone/else") is None


def test_an_unknown_id_names_the_nearest() -> None:
    assert nearest_ids("qwen-7b-caht")[0] == "qwen-7b-chat"
    assert nearest_ids("baichaun2-13b-chat")[0] == "baichuan2-13b-chat"
    assert "chatglm2-6b" in str(unknown_id("chatglm2-6", "--model_type"))
    assert "--model" in str(unknown_id("zzzzzz", "--model_type"))


def test_what_is_quantised_or_needs_code_says_so() -> None:
    refused = {entry.id for entry in ENTRIES_2023 if entry.refusal}
    assert refused == {row[0] for row in ROWS if len(row) > 5} | {"skywork-13b", "skywork-13b-chat"}
    assert "gptq-int4" in CATALOG["qwen-7b-chat-int4"].refusal
    assert "gptq-int4" in CATALOG["qwen-vl-chat-int4"].refusal


def test_internlm2_and_the_long_glms_are_served() -> None:
    for id, qkv in (
        ("internlm2-7b-chat", "wqkv"),
        ("internlm2.5-7b-chat-1m", "wqkv"),
        ("chatglm3-6b-128k", "query_key_value"),
        ("glm-4-9b-chat-1m", "query_key_value"),
    ):
        assert CATALOG[id].refusal == "" and CATALOG[id].qkv == (qkv,)


def test_search_wants_every_word() -> None:
    assert {entry.id for entry in search("internlm 20b")} >= {"internlm-20b", "internlm-20b-chat"}
    assert [entry.id for entry in search("gptq-int8 14b")] == ["qwen-14b-chat-int8"]
    assert [entry.id for entry in search("IDEA-CCNL chat")] == ["ziya2-13b-chat"]
    assert len(search("")) == len(CATALOG)


def test_models_lists_and_searches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "chatglm2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["id"] for entry in found] == ["chatglm2-6b", "chatglm2-6b-32k"]
    assert found[0] == {
        "id": "chatglm2-6b", "family": "chatglm2", "modelscope": "ZhipuAI/chatglm2-6b",
        "huggingface": "THUDM/chatglm2-6b", "path": None, "template": "chatglm2", "qkv": ["query_key_value"],
        "lora_target_modules": ["qkv"], "quantization": None, "dtype": None, "revision": None,
        "ignore_file_pattern": [], "refused": "", "notes": "",
    }  # fmt: skip
    assert main(["models"]) == 0
    table = capsys.readouterr().out
    assert all(f" {id} " in table for id in CATALOG)
    assert main(["models", "qwen", "7b", "caht"]) == 2
    assert "qwen-7b-chat" in capsys.readouterr().err


def test_models_imports_no_torch() -> None:
    code = (
        "import sys; from hanlin.cli import main; main(['models', 'qwen']);"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_transformers_types_and_ids_do_not_meet() -> None:
    """--model_type takes both; none may mean two things."""
    from transformers import CONFIG_MAPPING

    assert not set(CATALOG) & set(CONFIG_MAPPING)


def test_a_taken_id_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        CATALOG.add("qwen-7b", Entry(id="qwen-7b", family="x", path="."))


def test_a_narrow_table_loses_no_word() -> None:
    """Through a pipe rich takes 80 columns; cut off, "not loaded" read as "n" and "loaded"."""
    written = io.StringIO()
    console = Console(file=written, width=40)
    show(console, search("qwen-vl-chat-int4", CATALOG), len(CATALOG))
    letters = "".join(written.getvalue().split())
    assert "…" not in letters
    for word in ("qwen-vl-chat-int4", "gptq-int4;", "not", "loaded", "chatml"):
        assert word in letters
